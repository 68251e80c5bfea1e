"""A trained model as a folder: `bundle.yaml` (its card), `weights.safetensors`, `model.onnx`. Never a pickle."""
