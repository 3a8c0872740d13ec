"""What score distillation descends: SDS and its family, one file a family."""
