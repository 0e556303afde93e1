"""Values that cross floors, processes and disks. No behaviour beyond packing."""
