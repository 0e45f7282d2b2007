"""Image files, datasets real and drawn, augmentation."""
