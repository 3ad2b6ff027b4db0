"""What exists and where: datasets, blocks, files, replicas, sites, storage elements, LFN<->PFN, wishes."""
