//! Medians, and how far values spread around them.

use serde::Serialize;

use crate::Error;

/// A number of values, in short.
#[derive(Debug, Clone, Serialize)]
pub struct Spread {
    /// Half of them are below.
    pub median: f64,
    /// A quarter of them is below.
    pub lower_quartile: f64,
    /// A quarter of them is above.
    pub upper_quartile: f64,
    /// The lowest.
    pub lowest: f64,
    /// The highest.
    pub highest: f64,
    /// All of them, by round.
    pub rounds: Vec<f64>,
}

impl Spread {
    /// Of at least one value.
    pub fn new(rounds: Vec<f64>) -> Result<Self, Error> {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let (Some(&lowest), Some(&highest)) = (sorted.first(), sorted.last()) else {
            return Err("no rounds were measured".into());
        };
        let at = |share: f64| quantile(&sorted, share).unwrap_or(lowest);
        Ok(Self {
            median: at(0.5),
            lower_quartile: at(0.25),
            upper_quartile: at(0.75),
            lowest,
            highest,
            rounds,
        })
    }

    /// Of ratios of values of the same rounds.
    pub fn of_ratios(these: &[f64], to: &[f64]) -> Result<Self, Error> {
        Self::new(these.iter().zip(to).map(|(this, to)| this / to).collect())
    }
}

/// Between the two neighbours in proportion, as most programs have it (type 7
/// of Hyndman and Fan, The American Statistician 50, 1996).
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (place.floor(), place.ceil());
    let (low, high) = (sorted.get(below as usize)?, sorted.get(above as usize)?);
    Some(low + (high - low) * (place - below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_sorted_values() {
        let spread = Spread::new(vec![5.0, 1.0, 2.0, 4.0]).unwrap();
        assert_eq!((spread.lowest, spread.highest), (1.0, 5.0));
        assert_eq!(
            (spread.lower_quartile, spread.median, spread.upper_quartile),
            (1.75, 3.0, 4.25)
        );
        assert_eq!(spread.rounds, [5.0, 1.0, 2.0, 4.0]);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let ratios = Spread::of_ratios(&[900.0, 1_600.0, 850.0], &[1_000.0, 2_000.0, 1_000.0]);
        let ratios = ratios.unwrap();
        assert_eq!([ratios.lowest, ratios.median, ratios.highest], [0.8, 0.85, 0.9]);
    }

    #[test]
    fn one_value_is_its_own_spread_and_none_has_none() {
        let spread = Spread::new(vec![3.0]).unwrap();
        assert_eq!((spread.lower_quartile, spread.upper_quartile), (3.0, 3.0));
        assert!(Spread::new(Vec::new()).is_err());
    }
}
