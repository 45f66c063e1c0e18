//! Pools on the fake driver, with paused time.
