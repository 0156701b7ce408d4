//! Where metrics are written: as text, or in memory.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{PREFIX, Sample};

/// No labels.
pub(super) const NONE: [(&str, String); 0] = [];

/// Where metrics are written.
pub(super) trait Write {
    /// Writes one metric: a number for each set of labels.
    fn metric<L: AsRef<[(&'static str, String)]>>(
        &mut self,
        name: &str,
        help: &str,
        grows: bool,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result;

    /// Its name gets `_total` added.
    fn counter<L: AsRef<[(&'static str, String)]>>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.metric(name, help, true, rows)
    }

    fn gauge<L: AsRef<[(&'static str, String)]>>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.metric(name, help, false, rows)
    }
}

/// The page of `/metrics`.
pub(super) struct Page<'a> {
    pub(super) encoder: DescriptorEncoder<'a>,
}

impl Write for Page<'_> {
    fn metric<L: AsRef<[(&'static str, String)]>>(
        &mut self,
        name: &str,
        help: &str,
        grows: bool,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let kind = if grows { MetricType::Counter } else { MetricType::Gauge };
        let mut encoder = self.encoder.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in rows {
            let labels = labels.as_ref();
            let encoder = encoder.encode_family(&labels)?;
            if grows {
                ConstCounter::new(value).encode(encoder)?;
            } else {
                ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder)?;
            }
        }
        Ok(())
    }
}

/// The same in memory.
#[derive(Default)]
pub(super) struct Samples(pub(super) Vec<Sample>);

impl Write for Samples {
    fn metric<L: AsRef<[(&'static str, String)]>>(
        &mut self,
        name: &str,
        help: &str,
        grows: bool,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let total = if grows { "_total" } else { "" };
        self.0.extend(rows.into_iter().map(|(labels, value)| Sample {
            name: format!("{PREFIX}_{name}{total}"),
            labels: labels.as_ref().iter().cloned().collect(),
            grows,
            value,
            meaning: help.to_owned(),
            advice: None,
        }));
        Ok(())
    }
}
