"""Reading and writing: images, DICOM, segmentations, surfaces, archives; files appear whole or not at all."""
