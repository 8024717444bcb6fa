"""NPU-ReID: 600 people in four visible and four infrared cameras."""
