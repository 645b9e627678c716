use super::*;

fn chart(points: Vec<(f64, f64)>, x: Axis, y: Axis) -> Chart {
    let lines = vec![Line { name: "one & only".to_owned(), points }];
    Chart { title: "<title>".to_owned(), x, y, lines, band: None, wide: false }
}

fn linear(points: Vec<(f64, f64)>) -> Chart {
    chart(points, Axis::linear("time, s"), Axis::linear("a < b"))
}

/// Every number in attributes is one.
fn assert_sound(svg: &str) {
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"), "{svg}");
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn without_points_it_says_so() {
    for points in [vec![], vec![(f64::NAN, 1.0)], vec![(1.0, f64::INFINITY)]] {
        let svg = linear(points).svg();
        assert_sound(&svg);
        assert!(svg.contains("nothing was measured"), "{svg}");
    }
    let negative = chart(vec![(0.0, 1.0), (-1.0, 2.0)], Axis::log("x"), Axis::log("y"));
    assert!(negative.svg().contains("nothing was measured"));
}

#[test]
fn one_point_is_a_dot_inside_the_frame() {
    for point in [(0.0, 0.0), (5.0, 3.0), (1e12, 1e-12), (3.0, -4.0)] {
        let svg = linear(vec![point]).svg();
        assert_sound(&svg);
        assert_eq!(svg.matches("<circle").count(), 1, "{svg}");
    }
    let log = chart(vec![(10.0, 10.0)], Axis::log("x"), Axis::log("y")).svg();
    assert_sound(&log);
    assert!(log.contains("<circle"));
}

#[test]
fn many_points_are_thinned_and_the_peak_stays() {
    let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), 1.0)).collect();
    points[77_777].1 = 9.0;
    let thin = thinned(&points);
    assert!(thin.len() <= POINTS_MAX);
    assert!(thin.iter().any(|(_, y)| *y > 8.0));
    let svg = linear(points).svg();
    assert_sound(&svg);
    assert!(svg.len() < 16 << 10, "{} bytes", svg.len());
}

#[test]
fn names_and_labels_are_escaped() {
    let chart = linear(vec![(0.0, 1.0), (1.0, 2.0)]);
    assert!(chart.svg().contains("a &lt; b") && chart.svg().contains("&lt;title&gt;"));
    assert!(chart.legend().contains("one &amp; only"));
}

#[test]
fn marks_are_round_and_few() {
    for high in [0.003, 0.9, 1.0, 7.0, 19_999.0, 3e9] {
        let extent = Extent { low: 0.0, high, length: 1.0 };
        let found = marks(&Axis::linear("y"), extent);
        assert!((2..=12).contains(&found.len()), "{high}: {found:?}");
    }
    let found = marks(&Axis::log("x"), Extent { low: -1.0, high: 2.0, length: 1.0 });
    let texts: Vec<_> = found.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["0.1", "1", "10", "100"]);
    assert_eq!(
        marks(&Axis::percentiles("p"), Extent { low: 0.0, high: 2.0, length: 1.0 }).len(),
        4
    );
}

#[test]
fn numbers_are_short() {
    let cases = [
        (0.0, "0"),
        (0.05, "0.05"),
        (1.0, "1"),
        (1.25, "1.25"),
        (400.0, "400"),
        (2_000.0, "2000"),
        (20_000.0, "20k"),
        (1_500_000.0, "1.5M"),
        (3e9, "3G"),
    ];
    for (value, text) in cases {
        assert_eq!(short(value), text);
    }
    assert!((nines(0.99) - 2.0).abs() < 1e-9 && nines(1.0).is_finite());
}
