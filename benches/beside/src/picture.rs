//! The growing rows as a picture: `growth.svg` beside the table.
//!
//! Owns its form. Draws what `results.json` holds and nothing else. Called when the figures are saved.

use plotters::prelude::*;
use serde_json::Value;

use crate::Told;

const SIZE: (u32, u32) = (1_200, 640);
/// What grows, and its word below the axis.
const GROWING: [(&str, &str); 3] =
    [("managers", "managers"), ("keys", "keys (log)"), ("watches", "watches (log, 0 at 1)")];
const LOADS: [&str; 2] = ["put 100 256B", "get l 100"];

/// A line: numbers and rates.
type Line = Vec<(f64, f64)>;

fn told(error: impl std::fmt::Display) -> String {
    format!("the picture: {error}")
}

/// Rates of one side by the number that grows.
fn line(entries: &[Value], what: &str, load: &str, side: &str) -> Line {
    let number = |entry: &Value| {
        let row = entry["row"].as_str()?;
        let number = row.strip_prefix(what)?.trim_start().strip_suffix(load)?.trim_end();
        Some((number.parse::<f64>().ok()?, entry[side].as_f64()?))
    };
    let mut line: Line = entries.iter().filter_map(number).collect();
    line.sort_by(|one, other| one.0.total_cmp(&other.0));
    line
}

/// The picture, or nothing where no growing row was measured.
pub(crate) fn svg(entries: &[Value]) -> Told<Option<String>> {
    if GROWING.iter().all(|(what, _)| line(entries, what, LOADS[0], "quorate").is_empty()) {
        return Ok(None);
    }
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(told)?;
        let panels = area.split_evenly((2, 3));
        for (panel, (load, (what, word))) in
            panels.iter().zip(LOADS.iter().flat_map(|load| GROWING.iter().map(move |growing| (load, growing))))
        {
            let sides =
                [("quorate", BLUE), ("etcd", RED)].map(|(side, color)| (side, color, line(entries, what, load, side)));
            let most = sides.iter().flat_map(|(.., line)| line.iter().map(|point| point.1)).fold(1.0, f64::max);
            // What grows by decades is drawn by decades.
            let place = |number: f64| if *what == "managers" { number } else { number.max(1.0).log10() };
            let right = sides.iter().flat_map(|(.., line)| line.iter().map(|point| place(point.0))).fold(1.0, f64::max);
            let mut chart = ChartBuilder::on(panel)
                .caption(format!("{load}, 1/s"), ("sans-serif", 16))
                .margin(8)
                .x_label_area_size(34)
                .y_label_area_size(64)
                .build_cartesian_2d(0.0..right * 1.05, 0.0..most * 1.1)
                .map_err(told)?;
            let label = |place: &f64| {
                if *what == "managers" { format!("{place:.0}") } else { format!("10^{place:.0}") }
            };
            chart.configure_mesh().x_desc(*word).x_labels(6).x_label_formatter(&label).draw().map_err(told)?;
            for (side, color, line) in sides {
                let points: Line = line.iter().map(|(number, rate)| (place(*number), *rate)).collect();
                let drawn = chart.draw_series(LineSeries::new(points.clone(), color.stroke_width(2))).map_err(told)?;
                drawn.label(side).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
                chart
                    .draw_series(points.into_iter().map(|point| Circle::new(point, 3, color.filled())))
                    .map_err(told)?;
            }
            chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw().map_err(told)?;
        }
        area.present().map_err(told)?;
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_has_its_own_rows_in_the_order_of_their_numbers() {
        let entries = [
            json!({ "row": "keys 1000000 put 100 256B", "quorate": 2.0, "etcd": 1.0 }),
            json!({ "row": "keys 10000 put 100 256B", "quorate": 3.0, "etcd": null }),
            json!({ "row": "keys 10000 get l 100", "quorate": 9.0, "etcd": 9.0 }),
            json!({ "row": "put 100 256B", "quorate": 7.0, "etcd": 7.0 }),
        ];
        assert_eq!(line(&entries, "keys", LOADS[0], "quorate"), [(10_000.0, 3.0), (1_000_000.0, 2.0)]);
        assert_eq!(line(&entries, "keys", LOADS[0], "etcd"), [(1_000_000.0, 1.0)]);
        let picture = svg(&entries).unwrap().unwrap();
        assert!(picture.starts_with("<svg") && picture.contains("quorate"), "{picture}");
        assert_eq!(svg(&entries[3..]).unwrap(), None);
    }
}
