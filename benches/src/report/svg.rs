//! Plots: CPU per token by target with its spread, and the distribution of delays.

use std::path::Path;

use plotters::coord::ranged1d::{SegmentedCoord, ValueFormatter};
use plotters::coord::types::RangedCoordusize;
use plotters::prelude::*;

use super::{Record, Summary, workers};
use crate::measure::{CURVE_END, CURVE_STEPS, Run, Spread, curve_x};

type PlotError = Box<dyn std::error::Error>;

const WIDTH: u32 = 900;
const HEIGHT: u32 = 420;
/// Bars that differ by more than this factor are drawn on a logarithmic axis, where the smallest
/// stays visible.
const WIDE: f64 = 30.0;
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
const OWN: RGBColor = RGBColor(0x4e, 0x79, 0xa7);
const OTHERS: RGBColor = RGBColor(0xba, 0xb0, 0xac);

/// Returns a delay curve of a run, with one value per step of [`crate::measure::curve_quantile`].
type PickCurve = fn(&Run) -> &[f64];

/// Writes `{scenario}-cpu.svg`, `{scenario}-memory.svg`, `{scenario}-first-token.svg` and
/// `{scenario}-delay.svg`, as far as there are figures.
pub(crate) fn write_svg(dir: &Path, summaries: &[Summary], runs: &[Run]) -> Result<(), PlotError> {
    std::fs::create_dir_all(dir)?;
    for here in Summary::groups(summaries) {
        let Some(first) = here.first() else { continue };
        let (scenario, workers) = (first.scenario.as_str(), first.workers);
        let file = match first.several_workers() {
            None => scenario.to_owned(),
            Some(workers) => format!("{scenario}-{}", workers.replace(' ', "-")),
        };
        let bars = |pick: fn(&Summary) -> Option<Spread>| -> Vec<(String, Spread)> {
            here.iter()
                .filter_map(|it| Some((it.target.clone(), pick(it)?)))
                .collect()
        };
        let per_request = scenario.starts_with("short");
        let cpu = bars(if per_request {
            |it| it.cpu_us_per_stream
        } else {
            |it| it.cpu_us_per_token
        });
        let unit = if per_request { "request" } else { "token" };
        let title = format!("{scenario}: CPU per {unit}, µs (median; line: least to most)");
        draw_bars(&dir.join(format!("{file}-cpu.svg")), &title, &cpu)?;
        let title = format!("{scenario}: memory per stream, KiB PSS");
        draw_bars(
            &dir.join(format!("{file}-memory.svg")),
            &title,
            &bars(|it| it.pss_kib_per_stream),
        )?;
        let picks: [(&str, &str, PickCurve); 2] = [
            ("first-token", "time to first token", |run| {
                &run.first_token_curve
            }),
            ("delay", "delay per token", |run| &run.token_delay_curve),
        ];
        for (name, what, pick) in picks {
            let mine = |target: &str| {
                let of = |run: &&Run| {
                    run.scenario == scenario
                        && run.workers == workers
                        && run.target == target
                        && pick(run).len() == CURVE_STEPS as usize
                };
                median_curve(&runs.iter().filter(of).map(pick).collect::<Vec<_>>())
            };
            let curves: Vec<(String, Vec<f64>)> = here
                .iter()
                .filter_map(|it| Some((it.target.clone(), mine(&it.target)?)))
                .collect();
            draw_curves(
                &dir.join(format!("{file}-{name}.svg")),
                &format!("{scenario}: {what}, µs"),
                &curves,
            )?;
        }
    }
    Ok(())
}

/// Writes `workers.svg`: each ratio by the number of workers. Without a curve no such file stays.
pub(crate) fn write_workers(dir: &Path, records: &[Record]) -> Result<(), PlotError> {
    let path = dir.join("workers.svg");
    if path.exists() {
        std::fs::remove_file(&path)?;
    }
    let curves = workers::curves(records);
    let points = || curves.iter().flat_map(|(_, points)| points);
    let (Some(workers), Some(ratios)) = (
        Spread::of(points().map(|(workers, _)| *workers)),
        Spread::of(points().map(|(_, ratio)| *ratio)),
    ) else {
        return Ok(());
    };
    std::fs::create_dir_all(dir)?;
    let root = SVGBackend::new(&path, (WIDTH, HEIGHT + 160)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("ratio to the peer by workers", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        // The names need room above the lines.
        .build_cartesian_2d(workers.least..workers.most, 0.0..ratios.most.max(1.5) * 1.9)?;
    chart.configure_mesh().x_desc("workers").draw()?;
    draw_lines(chart, curves)?;
    root.present()?;
    Ok(())
}

/// Returns the median over the rounds at each step.
fn median_curve(curves: &[&[f64]]) -> Option<Vec<f64>> {
    (0..CURVE_STEPS as usize)
        .map(|step| {
            Some(Spread::of(curves.iter().filter_map(|curve| curve.get(step).copied()))?.median)
        })
        .collect()
}

/// Draws one bar per line, with room for the names.
fn draw_bars(path: &Path, title: &str, bars: &[(String, Spread)]) -> Result<(), PlotError> {
    let (Some(most), Some(least)) = (
        Spread::of(bars.iter().map(|(_, spread)| spread.most)),
        Spread::of(bars.iter().map(|(_, spread)| spread.median)),
    ) else {
        return Ok(());
    };
    let top = most.most.max(0.001);
    let height = 90 + 36 * u32::try_from(bars.len()).unwrap_or(1);
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let wide = least.least > 0.0 && top / least.least > WIDE;
    let title = if wide {
        format!("{title}; logarithmic")
    } else {
        title.to_owned()
    };
    let lines = (0..bars.len() - 1).into_segmented();
    let mut chart = ChartBuilder::on(&root);
    chart
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(28)
        .y_label_area_size(130);
    // Starts at a power of ten and leaves room on the right for the figures.
    if wide {
        let floor = 10_f64.powf((least.least / 2.0).log10().floor());
        fill_bars(
            chart.build_cartesian_2d((floor..top * 4.0).log_scale(), lines)?,
            floor,
            bars,
        )?;
    } else {
        fill_bars(chart.build_cartesian_2d(0.0..top * 1.15, lines)?, 0.0, bars)?;
    }
    root.present()?;
    Ok(())
}

fn fill_bars<'a, X>(
    mut chart: ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, SegmentedCoord<RangedCoordusize>>>,
    floor: f64,
    bars: &[(String, Spread)],
) -> Result<(), PlotError>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    // Lines are numbered from the bottom and read from the top.
    let line = |index: usize| bars.len() - 1 - index;
    let name = |value: &SegmentValue<usize>| match value {
        SegmentValue::CenterOf(at) => bars
            .get(line(*at))
            .map(|(name, _)| name.clone())
            .unwrap_or_default(),
        SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(bars.len())
        .y_label_formatter(&name)
        .draw()?;
    for (index, (target, spread)) in bars.iter().enumerate() {
        let at = line(index);
        let colour = if target.starts_with("tokenwire") {
            OWN
        } else {
            OTHERS
        };
        let corners = [
            (floor, SegmentValue::Exact(at)),
            (spread.median, SegmentValue::Exact(at + 1)),
        ];
        let mut bar = Rectangle::new(corners, colour.filled());
        bar.set_margin(6, 6, 0, 0);
        chart.draw_series([bar])?;
        let ends = [
            (spread.least.max(floor), SegmentValue::CenterOf(at)),
            (spread.most, SegmentValue::CenterOf(at)),
        ];
        chart.draw_series([PathElement::new(ends, BLACK.stroke_width(2))])?;
        let place = EmptyElement::at((spread.most.max(spread.median), SegmentValue::CenterOf(at)));
        chart.draw_series([
            place + Text::new(format!("{:.2}", spread.median), (8, -7), ("sans-serif", 14))
        ])?;
    }
    Ok(())
}

/// Draws curves with two logarithmic axes; see [`curve_x`].
fn draw_curves(path: &Path, title: &str, curves: &[(String, Vec<f64>)]) -> Result<(), PlotError> {
    let Some(range) = Spread::of(curves.iter().flat_map(|(_, curve)| curve.iter().copied())) else {
        return Ok(());
    };
    let root = SVGBackend::new(path, (WIDTH, HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(72)
        .build_cartesian_2d(
            (1.0..CURVE_END).log_scale(),
            (range.least.max(1.0)..range.most.max(10.0) * 1.1).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .x_label_formatter(&|x| format!("{}", ((1.0 - 1.0 / x) * 1e5).round() / 1e3))
        .draw()?;
    let lines = curves.iter().map(|(name, curve)| {
        let values = curve.iter().map(|value| value.max(1.0));
        let points = (0..CURVE_STEPS).map(curve_x).zip(values);
        (name.as_str(), points.collect())
    });
    draw_lines(chart, lines)?;
    root.present()?;
    Ok(())
}

/// Draws lines of points in colours of their own, with a legend of their names.
fn draw_lines<'a, 'n, X, Y>(
    mut chart: ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    lines: impl IntoIterator<Item = (&'n str, Vec<(f64, f64)>)>,
) -> Result<(), PlotError>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    for (index, (name, points)) in lines.into_iter().enumerate() {
        let colour = COLOURS.get(index % COLOURS.len()).copied().unwrap_or(BLACK);
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    Ok(())
}
