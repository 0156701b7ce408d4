//! Numbers for people.

use std::time::Duration;

/// How exactly an amount is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    /// Every digit.
    Exact,
    /// Three digits and a unit of 1,000, 1,000,000 …: never more than 5
    /// characters.
    Rounded,
}

/// An amount of anything.
pub(crate) fn amount(value: u64, precision: Precision) -> String {
    const UNITS: [&str; 7] = ["", "K", "M", "G", "T", "P", "E"];
    if precision == Precision::Exact || value < 10_000 {
        return value.to_string();
    }
    // 999.5 of a unit would be written as 1000, so that is 1 of the next.
    let mut scaled = value as f64;
    let mut unit = UNITS[0];
    for next in UNITS.into_iter().skip(1) {
        if scaled < 999.5 {
            break;
        }
        scaled /= 1_000.0;
        unit = next;
    }
    let digits = if scaled < 9.995 {
        2
    } else if scaled < 99.95 {
        1
    } else {
        0
    };
    format!("{scaled:.digits$}{unit}")
}

/// A share from 0 to 1.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// A time span, to the two largest units.
pub(crate) fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds == 0 => format!("{} ms", span.as_millis()),
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_amounts_keep_three_digits() {
        for (value, text) in [
            (0, "0"),
            (9_999, "9999"),
            (10_000, "10.0K"),
            (12_345, "12.3K"),
            (99_949, "99.9K"),
            (99_950, "100K"),
            (999_499, "999K"),
            (999_500, "1.00M"),
            (1_234_567, "1.23M"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(amount(value, Precision::Rounded), text);
            assert_eq!(amount(value, Precision::Exact), value.to_string());
        }
    }

    #[test]
    fn durations_have_two_units() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (59_999, "59 s"),
            (61_000, "1 min 1 s"),
            (7_500_000, "2 h 5 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }
}
