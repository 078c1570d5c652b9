"""Reading and writing: images, DICOM, segmentations, surfaces, datasets."""
