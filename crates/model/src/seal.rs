//! Sealed environments: xkv1 boxes.
