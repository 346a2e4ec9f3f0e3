"""The files that stages write and read: images, masks, label maps, tables, COCO JSON."""
