//! Random bytes of the caller, made into as many identities as a plan needs.

use moat_model::AllocId;

/// Sixteen random bytes, other ones for each plan. Everything a plan names is made from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub [u8; 16]);

/// Gives out identities of one seed.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    state: u128,
}

impl Ids {
    pub(crate) fn new(seed: Seed) -> Self {
        Self { state: u128::from_le_bytes(seed.0) }
    }

    /// A UUID of the fourth kind, as text.
    pub(crate) fn uuid(&mut self) -> String {
        // An odd step visits every state once, and `mix` maps no two states to one: no two of a plan are equal.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let bits = mix128(self.state);
        let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
        let hex = format!("{bits:032x}");
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
        format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
    }

    /// One for an allocation.
    pub(crate) fn alloc(&mut self) -> Option<AllocId> {
        AllocId::parse(&self.uuid()).ok()
    }
}

fn mix128(value: u128) -> u128 {
    let low = value as u64;
    let high = (value >> 64) as u64;
    let high = high ^ mix(low);
    let low = low ^ mix(high);
    let high = high ^ mix(low.wrapping_add(0x5851_f42d_4c95_7f2d));
    u128::from(high) << 64 | u128::from(low)
}

/// SplitMix64's finaliser: each bit of the input changes half of the output's.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A number for a text, the same everywhere and for ever (FNV-1a, then mixed).
pub(crate) fn number_of(text: &str) -> u64 {
    mix(text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_gives_the_same_ids_and_none_twice() {
        let mut ids = Ids::new(Seed([7; 16]));
        let first: Vec<_> = (0..1000).filter_map(|_| ids.alloc()).collect();
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 1000);
        let mut again = Ids::new(Seed([7; 16]));
        assert_eq!(again.alloc().as_ref(), first.first());
        assert_ne!(Ids::new(Seed([8; 16])).alloc().as_ref(), first.first());
        assert!(first.iter().all(|id| id.as_str().as_bytes().get(14) == Some(&b'4')));
    }
}
