"""Prediction on images: the predictor and predict.py's command line."""
