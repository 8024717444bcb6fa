"""SYSU-MM01: 491 people in four visible and two infrared cameras."""
