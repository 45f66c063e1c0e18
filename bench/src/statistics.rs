//! Percentiles by nearest rank: every number shown is one that was measured.

/// What is shown of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// How many samples.
    pub count: usize,
    /// Half are at most this.
    pub p50: f64,
    /// 95 of 100 are at most this.
    pub p95: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

/// Summarises a series; nothing if it is empty.
pub fn summary(values: &[f64]) -> Option<Summary> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let rank = (percent * sorted.len()).div_ceil(100).max(1);
        sorted.get(rank - 1).copied()
    };
    Some(Summary { count: sorted.len(), p50: at(50)?, p95: at(95)?, p99: at(99)?, max: *sorted.last()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let found = summary(&values).unwrap();
        assert_eq!((found.p50, found.p95, found.p99, found.max), (100.0, 190.0, 198.0, 200.0));
        assert_eq!(summary(&[7.0]).unwrap().p99, 7.0);
        assert_eq!(summary(&[]), None);
    }
}
