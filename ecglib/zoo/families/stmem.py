"""ST-MEM (ICLR 2024): a card alone. Its owners forbid what goes beyond the licence without their consent."""
