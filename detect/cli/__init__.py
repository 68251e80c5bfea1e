"""The command `smear`: one thin file per verb. The only room that prints, configures logging or sets exit codes."""
