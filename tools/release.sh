#!/usr/bin/env bash
# Train, export, verify and measure the released bundles, from a checkout with the sets at hand (see datasets/README.md).
# The held-out parts are scored once, at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
smear=.venv/bin/smear
released=detect/bundles/released

# 60 epochs from scratch: where both of the next two begin.
[ -f runs/cells-yolov8n/run.yaml ] || $smear train detector configs/detectors/yolov8n.yaml \
  --data datasets/txl-pbc.yaml --out runs/cells-yolov8n
$smear bundle export runs/cells-yolov8n --out $released/cells-yolov8n --overwrite --name cells-yolov8n

# For other labs' colours: it goes on from cells-yolov8n, with drawn slides beside the real ones.
[ -d runs/robust-slides ] || $smear data synthesize --slides 60 --fields 5 --size 416 --seed 200 --out runs/robust-slides
[ -f runs/cells-robust/run.yaml ] || $smear train detector configs/detectors/yolov8n-robust.yaml \
  --data txl-pbc --split txl-pbc-release \
  --data runs/robust-slides/synthetic.yaml --split runs/robust-slides/split.csv --out runs/cells-robust
$smear bundle export runs/cells-robust --out $released/cells-robust --overwrite --name cells-robust \
  --title "YOLOv8n for other labs' colours: white cells, red cells, platelets" \
  --limit "Learnt from TXL-PBC (four labs, one to two white cells a field) and drawn slides, in colours changed far beyond one lab's; crowded fields were rare in it." \
  --limit "It began with cells-yolov8n (60 epochs at 416 px) and went on for 18 epochs at 640 px: 78 epochs in all." \
  --limit "At home its boxes sit a little looser than those of cells-yolov8n (mAP50-95)." \
  --limit "No patients are known, so parts are disjoint by near copies, not by patient. Boxes all white cells as WBC." \
  --limit "25 of the 288 fields of val share cells with a field of train or dev (split txl-pbc-apart leaves them out)."
$smear bundle pack $released/cells-robust
$smear bundle verify $released/cells-robust
$smear bundle precisions $released/cells-robust --data txl-pbc

# At home: 40 epochs more, 100 in all.
[ -f runs/cells-yolov8n-longer/run.yaml ] || $smear train detector configs/detectors/yolov8n-longer.yaml \
  --data datasets/txl-pbc.yaml --split txl-pbc-release --out runs/cells-yolov8n-longer
$smear bundle export runs/cells-yolov8n-longer --out $released/cells-yolov8n --overwrite --name cells-yolov8n \
  --title "YOLOv8n from scratch on TXL-PBC: white cells, red cells, platelets" \
  --limit "Trained and measured on fields 360 to 640 px a side, white cells 100 to 230 px wide: other magnifications fail quietly without scale auto." \
  --limit "Four labs' colours only; on another lab's slides it calls red cells white ones: take cells-robust there." \
  --limit "60 epochs from scratch, and 40 more from their weights at a lower rate, all at 416 px: 100 epochs in all." \
  --limit "No patients are known, so parts are disjoint by near copies, not by patient. Boxes all white cells as WBC." \
  --limit "The best epoch and the thresholds were chosen on the same 146 fields of dev." \
  --limit "25 of the 288 fields of val share cells with a field of train or dev (split txl-pbc-apart leaves them out). 4 of 119 groups of dev share cells with train."
$smear bundle pack $released/cells-yolov8n
$smear bundle verify $released/cells-yolov8n
$smear bundle precisions $released/cells-yolov8n --data txl-pbc

# With masks: whole fields with boxes, single cells and drawn fields with masks.
[ -d runs/drawn-slides ] || $smear data synthesize --slides 100 --fields 5 --size 416 --seed 100 --out runs/drawn-slides
[ -f runs/cells-masks/run.yaml ] || $smear train detector configs/detectors/maskrcnn-mobilenet-mixed.yaml \
  --data txl-pbc --split txl-pbc-release --data wbc-masks --split wbc-masks-release \
  --data runs/drawn-slides/synthetic.yaml --split runs/drawn-slides/split.csv --out runs/cells-masks
$smear bundle export runs/cells-masks --graph-only --out $released/cells-masks --overwrite --name cells-masks \
  --title "Mask R-CNN (MobileNet-v3) with masks: white cells, red cells, platelets" \
  --limit "16 epochs from scratch at 320 px: its boxes are looser than those of cells-robust, and it finds fewer platelets." \
  --limit "Masks were learnt from single white cells of wbc-masks and from drawn fields: of red cells and platelets from drawings alone." \
  --limit "Masks are 28 x 28 pixels a cell before they are enlarged to its box." \
  --limit "No patients are known, so parts are disjoint by near copies, not by patient. Boxes all white cells as WBC." \
  --limit "25 of the 288 fields of val share cells with a field of train or dev (split txl-pbc-apart leaves them out)."
$smear bundle verify $released/cells-masks
$smear bundle precisions $released/cells-masks --data txl-pbc --no-int8

# Small and fast: a third of the work of cells-yolov8n, drawn slides beside the real fields.
[ -f runs/cells-small/run.yaml ] || $smear train detector configs/detectors/yolov8-pico.yaml \
  --data txl-pbc --split txl-pbc-release \
  --data runs/drawn-slides/synthetic.yaml --split runs/drawn-slides/split.csv --out runs/cells-small
$smear bundle export runs/cells-small --graph-only --out $released/cells-small --overwrite --name cells-small \
  --title "YOLOv8 pico at 320 px: white cells, red cells, platelets, fast" \
  --limit "60 epochs from scratch at 320 px on TXL-PBC and drawn slides: finds fewer platelets than the larger ones." \
  --limit "No patients are known, so parts are disjoint by near copies, not by patient. Boxes all white cells as WBC." \
  --limit "25 of the 288 fields of val share cells with a field of train or dev (split txl-pbc-apart leaves them out)."
$smear bundle verify $released/cells-small
$smear bundle precisions $released/cells-small --data txl-pbc --no-int8

# White cell types by two networks: careful with cells of another kind.
[ -f runs/wbc-types/run.yaml ] || $smear train classifier configs/classifiers/wbc-types.yaml \
  --data bccd --data wbc-masks --split wbc-types-release --out runs/wbc-types
$smear bundle export runs/wbc-types --out $released/wbc-types --overwrite --name wbc-types \
  --title "Two small networks from scratch: neutrophil, lymphocyte, eosinophil, monocyte" \
  --limit "Learnt from a few hundred cells of three labs; expect it to be worse on other stains." \
  --limit "Knows four types. A basophil, a blast or any other cell is called one of them, unidentified, or unfamiliar." \
  --limit "12 of the 163 cells of test share cells with a field of train or dev (split wbc-types-apart leaves them out). 7 of 98 groups of dev share cells with train." \
  --limit "Types of bccd are one person's per field; types of wbc-masks were not checked by experts, says the publisher."
$smear bundle verify $released/wbc-types

# Nucleus and cytoplasm.
[ -f runs/wbc-parts/run.yaml ] || $smear train segmenter configs/segmenters/unet.yaml \
  --data wbc-masks --split wbc-masks-release \
  --data runs/drawn-slides/synthetic-types.yaml --split runs/drawn-slides/split.csv --out runs/wbc-parts
$smear bundle export runs/wbc-parts --out $released/wbc-parts --overwrite --name wbc-parts \
  --title "U-Net (MobileNet-v3): nucleus and cytoplasm of a white cell" \
  --limit "Learnt from 211 white cells of two labs (wbc-masks) and 694 drawn ones; of other labs' stains it knows what changed colours show." \
  --limit "Takes a box around one white cell: what else lies in the box may be taken for it where cells touch." \
  --limit "Types of wbc-masks were not checked by experts, says the publisher, and no patients are known: parts are disjoint by near copies."
$smear bundle pack $released/wbc-parts --graph-only

$smear evaluate detector $released/cells-yolov8n --data txl-pbc --split val --out runs/eval-cells-yolov8n --write-card
$smear evaluate detector $released/cells-robust --data txl-pbc --split val --out runs/eval-cells-robust --write-card
for name in cells-masks cells-small; do
  $smear evaluate detector $released/$name --data txl-pbc --split val --out runs/eval-$name --write-card
done

# Both together, each looking at the mirror images too: the best at home, and 14 times the work of the second. Members are
# held by their cards' hashes, so it comes after the last word on theirs.
$smear bundle fuse cells-robust cells-yolov8n --data txl-pbc --views flips --weight 1 --weight 2 --beside \
  --out $released/cells-accurate --overwrite --title "cells-robust and cells-yolov8n, fused over mirror images"
$smear evaluate detector $released/cells-accurate --data txl-pbc --split val --out runs/eval-cells-accurate --write-card
$smear evaluate classifier $released/wbc-types --data bccd --data wbc-masks --split test --out runs/eval-wbc-types --write-card
$smear evaluate segmenter $released/wbc-parts --data wbc-masks --split-file wbc-masks-release --out runs/eval-wbc-parts --write-card

# What shows how a lab trains its own, from drawn cells only: three classifiers, a slide model, and their pipeline.
.venv/bin/python tools/demo_leukemia.py runs/demo --release
