//! Slots: a network namespace each, with a link to the host, addresses, routes and neighbours.

pub mod naming;
