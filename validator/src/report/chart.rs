//! Line charts as inline SVG: small, without scripts, and coloured by the style of the page.
//!
//! Whatever the data, a chart is well-formed and bounded: values that are not finite, or not above
//! zero on a logarithmic axis, are left out; long lines are thinned; without a point it says so.

use std::fmt::Write as _;

const WIDTH: f64 = 540.0;
const WIDTH_WIDE: f64 = 1_110.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;
/// More than a screen shows apart.
const POINTS_MAX: usize = 240;
/// Colours in the style of the page; beyond them, lines are dashed.
pub const COLOURS: usize = 8;
const DASHES: [&str; 4] = ["", "7 4", "2 3", "9 3 2 3"];

/// How values lie on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// By powers of ten.
    Log,
}

/// One axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it shows, with its unit.
    pub label: String,
    /// How.
    pub scale: Scale,
    /// Marks, if they are not to be made up.
    pub marks: Option<Vec<(f64, String)>>,
}

impl Axis {
    /// From zero.
    pub fn linear(label: &str) -> Self {
        Self { label: label.to_owned(), scale: Scale::Linear, marks: None }
    }

    /// By powers of ten.
    pub fn log(label: &str) -> Self {
        Self { label: label.to_owned(), scale: Scale::Log, marks: None }
    }

    /// Percentiles, spread so that each nine takes the same room: see [`nines`].
    pub fn percentiles(label: &str) -> Self {
        let marks = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99]
            .map(|percent| (nines(percent / 100.0), format!("{percent}")));
        Self { label: label.to_owned(), scale: Scale::Linear, marks: Some(marks.into()) }
    }

    fn of(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Log => value.log10(),
        }
    }

    fn takes(&self, value: f64) -> bool {
        value.is_finite() && (self.scale == Scale::Linear || value > 0.0)
    }
}

/// Where a quantile lies on an axis of percentiles: 0.9 at 1, 0.99 at 2.
pub fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).max(1e-9).log10()
}

/// A named line.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// In the legend.
    pub name: String,
    /// In the order of x.
    pub points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// For readers of the screen.
    pub title: String,
    /// Along the bottom.
    pub x: Axis,
    /// Up the side.
    pub y: Axis,
    /// The lines.
    pub lines: Vec<Line>,
    /// A range of x that is shaded.
    pub band: Option<(f64, f64)>,
    /// As wide as two others.
    pub wide: bool,
}

/// The extent of one axis in drawn units, and the length that it takes.
#[derive(Clone, Copy, Debug)]
struct Extent {
    low: f64,
    high: f64,
    length: f64,
}

impl Extent {
    fn of(axis: &Axis, length: f64, values: impl Iterator<Item = f64>) -> Option<Self> {
        let values = values.map(|value| axis.of(value));
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        if low > high {
            return None;
        }
        let (low, high) = match axis.scale {
            Scale::Linear => (low.min(0.0), if high > 0.0 { high } else { 1.0 }),
            Scale::Log => (low.floor(), high.ceil()),
        };
        let high = if high > low { high } else { low + 1.0 };
        Some(Self { low, high, length })
    }

    /// How far along the axis.
    fn place(self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0) * self.length
    }
}

impl Chart {
    /// The picture.
    pub fn svg(&self) -> String {
        let width = if self.wide { WIDTH_WIDE } else { WIDTH };
        let (across, up) = (width - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let points = || {
            let all = self.lines.iter().flat_map(|line| line.points.iter().copied());
            all.filter(|(x, y)| self.x.takes(*x) && self.y.takes(*y))
        };
        let mut svg = format!(
            "<svg viewBox=\"0 0 {width} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            super::html::escape(&self.title)
        );
        let extents = Extent::of(&self.x, across, points().map(|(x, _)| x)).zip(Extent::of(
            &self.y,
            up,
            points().map(|(_, y)| y),
        ));
        let Some((x, mut y)) = extents else {
            svg.push_str(
                "<text class=\"none\" x=\"270\" y=\"140\">nothing was measured</text></svg>",
            );
            return svg;
        };
        if self.y.scale == Scale::Linear {
            // Room above, and the last mark at the top.
            let step = step(y.high - y.low);
            y.high = (y.high / step).ceil() * step;
        }
        if let Some((from, to)) = self.band {
            let (from, to) = (place_x(x, self.x.of(from)), place_x(x, self.x.of(to)));
            let width = (to - from).max(0.0);
            // Writing to a string cannot fail, here and below.
            let _ = write!(
                svg,
                "<rect class=\"band\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" \
                 height=\"{up}\"/>"
            );
        }
        self.draw_axes(&mut svg, x, y);
        for (index, line) in self.lines.iter().enumerate() {
            self.draw_line(&mut svg, index, line, x, y);
        }
        svg.push_str("</svg>");
        svg
    }

    fn draw_axes(&self, svg: &mut String, x: Extent, y: Extent) {
        let (right, bottom) = (LEFT + x.length, HEIGHT - BOTTOM);
        for (value, text) in marks(&self.y, y) {
            let at = place_y(y, value);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"mark\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{text}</text>",
                LEFT - 6.0,
                at + 4.0,
            );
        }
        for (value, text) in marks(&self.x, x) {
            let at = place_x(x, value);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
                 <text class=\"mark\" text-anchor=\"middle\" x=\"{at:.1}\" y=\"{:.1}\">{text}</text>",
                bottom + 16.0,
            );
        }
        let (middle_x, middle_y) = (f64::midpoint(LEFT, right), f64::midpoint(TOP, bottom));
        let (label_x, label_y) = (&self.x.label, &self.y.label);
        let _ = write!(
            svg,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>\
             <text class=\"label\" text-anchor=\"middle\" x=\"{middle_x}\" y=\"{:.1}\">{}</text>\
             <text class=\"label\" text-anchor=\"middle\" \
             transform=\"translate(13 {middle_y}) rotate(-90)\">{}</text>",
            HEIGHT - 8.0,
            super::html::escape(label_x),
            super::html::escape(label_y),
        );
    }

    fn draw_line(&self, svg: &mut String, index: usize, line: &Line, x: Extent, y: Extent) {
        let taken = |(x, y): &&(f64, f64)| self.x.takes(*x) && self.y.takes(*y);
        let points: Vec<_> = line.points.iter().filter(taken).copied().collect();
        let place =
            |(at, value): &(f64, f64)| (place_x(x, self.x.of(*at)), place_y(y, self.y.of(*value)));
        if let [point] = points.as_slice() {
            let (x, y) = place(point);
            let colour = index % COLOURS;
            let _ = write!(
                svg,
                "<circle class=\"dot f{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>"
            );
            return;
        }
        let path = thinned(&points).iter().map(place).fold(String::new(), |mut path, (x, y)| {
            let _ = write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { "M" } else { "L" });
            path
        });
        if !path.is_empty() {
            let _ = write!(svg, "<path class=\"line {}\" d=\"{path}\"/>", look(index));
        }
    }

    /// What the colours mean; nothing if there is one line without a name.
    pub fn legend(&self) -> String {
        if self.lines.iter().all(|line| line.name.is_empty()) {
            return String::new();
        }
        let mut legend = "<ul class=\"legend\">".to_owned();
        for (index, line) in self.lines.iter().enumerate() {
            let _ = write!(
                legend,
                "<li><svg viewBox=\"0 0 28 8\"><path class=\"line {}\" d=\"M0 4L28 4\"/></svg>{}</li>",
                look(index),
                super::html::escape(&line.name),
            );
        }
        legend + "</ul>"
    }
}

/// Colour and dashes of a line.
fn look(index: usize) -> String {
    let dash = DASHES[(index / COLOURS) % DASHES.len()];
    let style = if dash.is_empty() { "" } else { &format!("\" stroke-dasharray=\"{dash}") };
    format!("c{}{style}", index % COLOURS)
}

fn place_x(extent: Extent, value: f64) -> f64 {
    LEFT + extent.place(value)
}

fn place_y(extent: Extent, value: f64) -> f64 {
    HEIGHT - BOTTOM - extent.place(value)
}

/// At most [`POINTS_MAX`] points; of each run the highest, so that peaks stay.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let run = points.len().div_ceil(POINTS_MAX).max(1);
    let highest = |run: &[(f64, f64)]| run.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
    points.chunks(run).filter_map(highest).collect()
}

/// Where marks go, in drawn units, and what they say.
fn marks(axis: &Axis, extent: Extent) -> Vec<(f64, String)> {
    if let Some(marks) = &axis.marks {
        let visible = |mark: &&(f64, String)| (extent.low..=extent.high).contains(&mark.0);
        return marks.iter().filter(visible).cloned().collect();
    }
    match axis.scale {
        Scale::Linear => {
            let step = step(extent.high - extent.low);
            let first = (extent.low / step).ceil() * step;
            let values = (0..12).map(|index| first + step * f64::from(index));
            let inside = values.take_while(|value| *value <= extent.high + step * 1e-6);
            inside.map(|value| (value, short(value))).collect()
        }
        Scale::Log => {
            let exponents = (0..=24).map(|index| extent.low + f64::from(index));
            let inside = exponents.take_while(|exponent| *exponent <= extent.high + 1e-6);
            inside.map(|exponent| (exponent, short(10_f64.powf(exponent)))).collect()
        }
    }
}

/// 1, 2 or 5 times a power of ten, so that about six fit.
fn step(range: f64) -> f64 {
    let rough = (range / 6.0).max(1e-12);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough);
    factor.unwrap_or(10.0) * power
}

/// A number with few digits.
pub fn short(value: f64) -> String {
    let size = value.abs();
    let (scaled, unit) = match size {
        _ if size >= 1e9 => (value / 1e9, "G"),
        _ if size >= 1e6 => (value / 1e6, "M"),
        _ if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        size if !(1e-9..100.0).contains(&size) => 0,
        size if size >= 1.0 => 2,
        size if size >= 0.01 => 3,
        _ => 6,
    };
    let text = format!("{scaled:.digits$}");
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[cfg(test)]
#[path = "chart_tests.rs"]
mod tests;
