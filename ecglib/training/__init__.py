"""What every objective shares: the only loop, batches, views, masks, losses, moving averages, checkpoints."""
