//! Programs fetched for workloads: from the object store to disk, checked, kept by digest.
