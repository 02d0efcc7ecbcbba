//! Metrics as OTLP has them: `opentelemetry/proto/metrics/v1`. All counts are cumulative.

use super::encode::text_attribute;
use super::protobuf::Message;

const CUMULATIVE: u64 = 2;

/// A metric with its series.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Family {
    pub(super) name: String,
    pub(super) description: String,
    /// The unit in UCUM: `s`, `By`, `{token}`.
    pub(super) unit: &'static str,
    pub(super) kind: FamilyKind,
    pub(super) points: Vec<Point>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FamilyKind {
    Gauge,
    Counter,
    Histogram,
}

/// The present value of a series.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) attributes: Vec<(String, String)>,
    pub(super) value: PointValue,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum PointValue {
    Number(f64),
    Histogram(Distribution),
}

/// The counts of a histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Distribution {
    /// Upper bounds.
    pub(super) bounds: Vec<f64>,
    /// One count for each bound, and the rest.
    pub(super) counts: Vec<u64>,
    pub(super) sum: f64,
}

// === impl Distribution ===

impl Distribution {
    pub(super) fn new(bounds: &[f64]) -> Self {
        Self {
            bounds: bounds.to_vec(),
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    pub(super) fn add(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += value;
    }
}

// === impl Family ===

impl Family {
    /// Returns the message `Metric`. The times are nanoseconds since 1970.
    pub(super) fn encode(&self, start: u64, now: u64) -> Vec<u8> {
        let mut metric = Message::default();
        metric.bytes(1, self.name.as_bytes());
        metric.bytes(2, self.description.as_bytes());
        metric.bytes(3, self.unit.as_bytes());
        let mut data = Message::default();
        for point in &self.points {
            data.nested(1, |message| point.encode(self.kind, message, start, now));
        }
        let field = match self.kind {
            FamilyKind::Gauge => 5,
            FamilyKind::Counter => {
                data.varint(2, CUMULATIVE);
                data.varint(3, 1);
                7
            }
            FamilyKind::Histogram => {
                data.varint(2, CUMULATIVE);
                9
            }
        };
        metric.message(field, &data);
        metric.into_bytes()
    }
}

// === impl Point ===

impl Point {
    fn encode(&self, kind: FamilyKind, message: &mut Message, start: u64, now: u64) {
        if kind != FamilyKind::Gauge {
            message.fixed64(2, start);
        }
        message.fixed64(3, now);
        let attributes = match &self.value {
            PointValue::Number(value) => {
                if value.fract() == 0.0 && value.abs() < 9e15 {
                    message.sfixed64(6, *value as i64);
                } else {
                    message.double(4, *value);
                }
                7
            }
            PointValue::Histogram(distribution) => {
                message.fixed64(4, distribution.counts.iter().sum());
                message.double(5, distribution.sum);
                let counts = distribution.counts.iter();
                message.packed64(6, counts.map(|count| count.to_le_bytes()));
                let bounds = distribution.bounds.iter();
                message.packed64(7, bounds.map(|bound| bound.to_le_bytes()));
                9
            }
        };
        for (key, value) in &self.attributes {
            text_attribute(message, attributes, key, value);
        }
    }
}
