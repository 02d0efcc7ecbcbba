//! Plots: CPU per token by target with its spread, and the distribution of delays.

use std::path::Path;

use plotters::prelude::*;

use super::Summary;
use crate::measure::{Run, Spread, Times};

type PlotError = Box<dyn std::error::Error>;

const SIZE: (u32, u32) = (900, 420);
const COLOURS: [RGBColor; 8] = [
    RGBColor(0x4e, 0x79, 0xa7),
    RGBColor(0xf2, 0x8e, 0x2b),
    RGBColor(0x59, 0xa1, 0x4f),
    RGBColor(0xe1, 0x57, 0x59),
    RGBColor(0x76, 0xb7, 0xb2),
    RGBColor(0xb0, 0x7a, 0xa1),
    RGBColor(0x9c, 0x75, 0x5f),
    RGBColor(0x79, 0x70, 0x6e),
];

/// Writes `{scenario}-cpu.svg`, `{scenario}-memory.svg`, `{scenario}-first-token.svg` and `{scenario}-delay.svg`,
/// as far as there are figures.
pub(crate) fn write_svg(dir: &Path, summaries: &[Summary], runs: &[Run]) -> Result<(), PlotError> {
    std::fs::create_dir_all(dir)?;
    let mut scenarios: Vec<&str> = summaries.iter().map(|it| it.scenario.as_str()).collect();
    scenarios.dedup();
    for scenario in scenarios {
        let here: Vec<&Summary> = summaries.iter().filter(|it| it.scenario == scenario).collect();
        let bars = |pick: fn(&Summary) -> Option<Spread>| -> Vec<(String, Spread)> {
            here.iter().filter_map(|it| Some((it.target.clone(), pick(it)?))).collect()
        };
        let per_request = scenario == "short";
        let cpu = bars(if per_request { |it| it.cpu_us_per_stream } else { |it| it.cpu_us_per_token });
        let unit = if per_request { "request" } else { "token" };
        let title = format!("{scenario}: CPU per {unit}, µs (median; line: least to most)");
        draw_bars(&dir.join(format!("{scenario}-cpu.svg")), &title, &cpu)?;
        let title = format!("{scenario}: memory per stream, KiB PSS");
        draw_bars(&dir.join(format!("{scenario}-memory.svg")), &title, &bars(|it| it.pss_kib_per_stream))?;
        for (name, what, pick) in [
            ("first-token", "time to first token", (|run| run.first_token_times.as_ref()) as fn(&Run) -> Option<&Times>),
            ("delay", "delay per token", |run| run.token_times.as_ref()),
        ] {
            let mut curves: Vec<(String, Times)> = Vec::new();
            for summary in &here {
                let mut times = Times::new();
                for run in runs.iter().filter(|run| run.scenario == scenario && run.target == summary.target) {
                    if let Some(more) = pick(run) {
                        times.add(more);
                    }
                }
                if times.quantiles().is_some() {
                    curves.push((summary.target.clone(), times));
                }
            }
            draw_curves(&dir.join(format!("{scenario}-{name}.svg")), &format!("{scenario}: {what}, µs"), &curves)?;
        }
    }
    Ok(())
}

fn draw_bars(path: &Path, title: &str, bars: &[(String, Spread)]) -> Result<(), PlotError> {
    let Some(top) = Spread::of(bars.iter().map(|(_, spread)| spread.most)).map(|spread| spread.most.max(0.001)) else {
        return Ok(());
    };
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(64)
        .build_cartesian_2d((0..bars.len() - 1).into_segmented(), 0.0..top * 1.1)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_label_formatter(&|value| match value {
            SegmentValue::CenterOf(index) => bars.get(*index).map(|(name, _)| name.clone()).unwrap_or_default(),
            SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
        })
        .draw()?;
    for (index, (_, spread)) in bars.iter().enumerate() {
        let colour = COLOURS.get(index % COLOURS.len()).copied().unwrap_or(BLACK);
        let mut bar = Rectangle::new([(SegmentValue::Exact(index), 0.0), (SegmentValue::Exact(index + 1), spread.median)], colour.filled());
        bar.set_margin(0, 0, 24, 24);
        chart.draw_series([bar])?;
        let ends = [(SegmentValue::CenterOf(index), spread.least), (SegmentValue::CenterOf(index), spread.most)];
        chart.draw_series([PathElement::new(ends, BLACK.stroke_width(2))])?;
        let label =
            Text::new(format!("{:.2}", spread.median), (SegmentValue::CenterOf(index), spread.most + top * 0.06), ("sans-serif", 14));
        chart.draw_series([label])?;
    }
    root.present()?;
    Ok(())
}

/// Both axes logarithmic: x is 1/(1 - quantile), so that the tail takes as much room as the middle.
fn draw_curves(path: &Path, title: &str, curves: &[(String, Times)]) -> Result<(), PlotError> {
    const LAST: f64 = 100_000.0;
    let ends = curves.iter().flat_map(|(_, times)| [times.at(0.0), times.at(1.0)]);
    let Some(range) = Spread::of(ends) else { return Ok(()) };
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(72)
        .build_cartesian_2d((1.0..LAST).log_scale(), (range.least.max(1.0)..range.most.max(10.0) * 1.1).log_scale())?;
    chart.configure_mesh().x_desc("percentile").x_label_formatter(&|x| format!("{}", ((1.0 - 1.0 / x) * 1e5).round() / 1e3)).draw()?;
    for (index, (name, times)) in curves.iter().enumerate() {
        let colour = COLOURS.get(index % COLOURS.len()).copied().unwrap_or(BLACK);
        let points = (0..=100).map(|step| {
            let x = LAST.powf(f64::from(step) / 100.0);
            (x, times.at(1.0 - 1.0 / x).max(1.0))
        });
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}
