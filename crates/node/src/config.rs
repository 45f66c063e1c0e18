//! What an operator sets, from TOML or from Nex's JSON.
