//! Reads the gateway's own metrics, as Prometheus gets them, for their export over OTLP. Names and
//! labels are the same in both: dashboards and alerts serve for both.

use super::points::{Distribution, Family, FamilyKind, Point, PointValue};

/// Reads metrics in the format OpenMetrics 1.0, as the gateway writes it. What has no equivalent is
/// left out.
pub(super) fn parse(text: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    let mut help = ("", "");
    let mut unit = ("", "");
    let mut known = false;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').unwrap_or((rest, ""));
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            unit = rest.split_once(' ').unwrap_or((rest, ""));
            let last = families.last_mut().filter(|last| last.name == unit.0);
            if let Some(family) = last {
                family.unit = ucum(unit.1);
            }
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            let kind = match kind {
                "counter" => Some(FamilyKind::Counter),
                "gauge" => Some(FamilyKind::Gauge),
                "histogram" => Some(FamilyKind::Histogram),
                _ => None,
            };
            known = kind.is_some();
            if let Some(kind) = kind {
                families.push(Family {
                    name: name.to_owned(),
                    description: if help.0 == name { help.1 } else { "" }.to_owned(),
                    unit: if unit.0 == name { ucum(unit.1) } else { "" },
                    kind,
                    points: Vec::new(),
                });
            }
        } else if !line.starts_with('#')
            && known
            && let Some(family) = families.last_mut()
            && let Some((name, labels, value)) = sample(line)
        {
            add(family, name, labels, value);
        }
    }
    families.retain(|family| !family.points.is_empty());
    families
}

/// Returns the unit in UCUM.
fn ucum(unit: &str) -> &'static str {
    match unit {
        "seconds" => "s",
        "bytes" => "By",
        _ => "",
    }
}

type Labels = Vec<(String, String)>;

/// Reads the name, the labels and the value of a line.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at_checked(end)?;
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((label.to_owned(), value));
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = rest.strip_prefix('}')?;
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name, labels, value))
}

/// Reads a label's value up to its closing quote. Returns it and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, character)) = chars.next() {
        match character {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

fn add(family: &mut Family, name: &str, mut labels: Labels, value: f64) {
    if family.kind != FamilyKind::Histogram {
        let value = PointValue::Number(value);
        let attributes = labels;
        return family.points.push(Point { attributes, value });
    }
    let bound = labels.iter().position(|(label, _)| label == "le");
    let bound = bound.map(|at| labels.remove(at).1);
    let series = family.points.iter().position(|p| p.attributes == labels);
    let at = series.unwrap_or_else(|| {
        family.points.push(Point {
            attributes: labels,
            value: PointValue::Histogram(Distribution::default()),
        });
        family.points.len() - 1
    });
    let Some(PointValue::Histogram(distribution)) =
        family.points.get_mut(at).map(|point| &mut point.value)
    else {
        return;
    };
    if name.ends_with("_sum") {
        distribution.sum = value;
    } else if name.ends_with("_bucket")
        && let Some(bound) = bound.and_then(|bound| bound.parse::<f64>().ok())
    {
        // Prometheus counts what is up to each bound, OTLP what is between two.
        let before: u64 = distribution.counts.iter().sum();
        distribution
            .counts
            .push((value as u64).saturating_sub(before));
        if bound.is_finite() {
            distribution.bounds.push(bound);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_gauges_and_histograms_are_read() {
        let text = "# HELP t_a What.\n# TYPE t_a counter\nt_a_total{x=\"1\",y=\"a\\\"b\\\\\"} 3\nt_a_total{x=\"2\",y=\"\"} 0\n\
            # HELP t_b_bytes Size.\n# TYPE t_b_bytes gauge\n# UNIT t_b_bytes bytes\nt_b_bytes 1.5\n\
            # TYPE i info\ni_info{v=\"1\"} 1\n\
            # TYPE h_seconds histogram\n# UNIT h_seconds seconds\nh_seconds_sum{u=\"x\"} 7.25\nh_seconds_count{u=\"x\"} 6\n\
            h_seconds_bucket{le=\"0.5\",u=\"x\"} 1\nh_seconds_bucket{le=\"1.0\",u=\"x\"} 4\nh_seconds_bucket{le=\"+Inf\",u=\"x\"} 6\n# EOF\n";
        let families = parse(text);
        let names: Vec<_> = families.iter().map(|f| (f.name.as_str(), f.unit)).collect();
        assert_eq!(
            names,
            [("t_a", ""), ("t_b_bytes", "By"), ("h_seconds", "s")]
        );
        assert_eq!(families[0].description, "What.");
        let labels = [("x", "1"), ("y", "a\"b\\")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(families[0].points[0].attributes, labels);
        assert_eq!(families[1].points[0].value, PointValue::Number(1.5));
        let expected = Distribution {
            bounds: vec![0.5, 1.0],
            counts: vec![1, 3, 2],
            sum: 7.25,
        };
        assert_eq!(
            families[2].points,
            [Point {
                attributes: vec![("u".to_owned(), "x".to_owned())],
                value: PointValue::Histogram(expected)
            }]
        );
    }
}
