//! What `ftagent baseline show` prints.

use super::{is_above, learning_text};
use crate::{
    cli::{
        plot::{self, Mark, Plot, Screen},
        text::{aligned, rate, short},
    },
    decide::{Metric, baseline::View, destinations::DestinationView},
    serve::protocol::Baseline,
};

/// Lays every class out in one table, busiest first.
pub fn overview(baseline: &Baseline, metric: Metric, screen: Screen) -> String {
    let mut text = head(baseline, screen);
    let mut views: Vec<&View> = baseline.views.iter().filter(|view| view.metric == metric).collect();
    if views.is_empty() {
        return text + "No class was seen yet.\n";
    }
    views.sort_by(|a, b| b.rate.total_cmp(&a.rate).then_with(|| a.class.cmp(&b.class)));
    let rows: Vec<Vec<String>> = views.into_iter().map(|view| row(view, screen)).collect();
    let header = ["class", "now", "normal", "threshold", "ceiling", "trusted", ""];
    text.push_str(&aligned(&header, &rows, &[0, 5, 6]));
    let other = if metric == Metric::Bps { "--metric pps" } else { "--metric bps" };
    text + &format!("({other} shows the other rate, --class CLASS the last hour and week of one class)\n")
}

/// Lists the busiest addresses.
pub fn destinations(baseline: &Baseline) -> String {
    if baseline.destinations.is_empty() {
        return "Nothing arrives now.\n".to_owned();
    }
    let row = |view: &DestinationView| {
        let normal = rate(view.baseline, Metric::Pps);
        vec![view.address.to_string(), rate(view.pps, Metric::Pps), rate(view.bps, Metric::Bps), normal]
    };
    let rows: Vec<Vec<String>> = baseline.destinations.iter().map(row).collect();
    aligned(&["address", "now", "", "normal"], &rows, &[0]) + "(estimates from samples)\n"
}

fn head(baseline: &Baseline, screen: Screen) -> String {
    let mut text = learning_text(&baseline.learning) + "\n";
    if !baseline.learning.bound.is_empty() {
        text.push_str(&format!("bound on growth: {}\n", screen.plain(&baseline.learning.bound)));
    }
    text
}

fn row(view: &View, screen: Screen) -> Vec<String> {
    vec![
        view.class.clone(),
        rate(view.rate, view.metric),
        normal(view, screen),
        known(view.threshold, view.metric),
        known(view.ceiling, view.metric),
        if view.trusted { "yes" } else { "not yet" }.to_owned(),
        if is_above(view) { "ABOVE" } else { "" }.to_owned(),
    ]
}

fn normal(view: &View, screen: Screen) -> String {
    let sign = if screen.unicode { "±" } else { "+-" };
    format!("{} {sign} {}", short(view.baseline).trim_end(), rate(view.spread, view.metric))
}

/// 0 stands for what is not known.
fn known(value: f64, metric: Metric) -> String {
    if value > 0.0 { rate(value, metric) } else { "none yet".to_owned() }
}

/// Shows one class with plots, in one metric or in both.
pub fn one(baseline: &Baseline, class: &str, metric: Option<Metric>, screen: Screen) -> String {
    let mut text = head(baseline, screen);
    let mut views = baseline.views.iter().filter(|view| metric.is_none_or(|metric| view.metric == metric)).peekable();
    if views.peek().is_none() {
        return text + &format!("No packet of class {class} was seen yet, so nothing is known of it.\n");
    }
    views.for_each(|view| text.push_str(&class_text(view, screen)));
    text
}

fn class_text(view: &View, screen: Screen) -> String {
    let what = if view.metric == Metric::Bps { "bits a second" } else { "packets a second" };
    let times = view.threshold / view.baseline;
    let times = if times.is_finite() && times >= 1.0 { format!(" ({times:.1} times that)") } else { String::new() };
    let above = if is_above(view) { "ABOVE the threshold, " } else { "" };
    let trusted = if view.trusted { "trusted" } else { "not trusted yet" };
    let mut text = format!(
        "\n{}, {what}\n  now {}, {above}normal {}, threshold {}{times}, ceiling {}, {trusted}\n",
        view.class,
        rate(view.rate, view.metric),
        normal(view, screen),
        known(view.threshold, view.metric),
        known(view.ceiling, view.metric),
    );
    let plots = [("minutes", "minute", "min", &view.minutes), ("hours", "hour", "h", &view.hours)];
    for (many, one, unit, values) in plots {
        if values.is_empty() {
            text.push_str(&format!("\n  no {one} is complete yet\n"));
            continue;
        }
        let marks = [Mark { name: "threshold", value: view.threshold }, Mark { name: "ceiling", value: view.ceiling }];
        let first = format!("-{} {unit}", values.len());
        let plot = Plot { values, marks: &marks, ends: [&first, "now"], unit: [one, many] };
        text.push_str(&format!(
            "\n  the last {} {many}, {}\n",
            values.len(),
            if view.metric == Metric::Bps { "bit/s" } else { "pps" }
        ));
        text.push_str(&plot::draw(&plot, screen, |value| short(value).trim_end().to_owned()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::baseline::Learning;

    const PIPED: Screen = Screen { width: 100, unicode: false };

    fn view(class: &str, rate: f64, trusted: bool) -> View {
        View {
            class: class.to_owned(),
            metric: Metric::Pps,
            rate,
            baseline: 310.0,
            spread: 40.0,
            threshold: 620.0,
            ceiling: 2480.0,
            trusted,
            minutes: vec![300.0, 310.0, 320.0],
            hours: Vec::new(),
        }
    }

    fn baseline(views: Vec<View>) -> Baseline {
        let bound = "at most ×2 in 24 hours".to_owned();
        Baseline {
            learning: Learning { state: "learned".into(), learned_s: 864_000, trust_after_s: 600, bound },
            views,
            destinations: Vec::new(),
        }
    }

    #[test]
    fn the_overview_is_a_table() {
        let none = View { threshold: 0.0, ceiling: 0.0, ..view("arp", 2.0, false) };
        let baseline = baseline(vec![none, view("tcp_syn", 48_210.0, true)]);
        let wanted = [
            "learned over 10 d",
            "bound on growth: at most x2 in 24 hours",
            "  class          now         normal  threshold    ceiling  trusted",
            "  tcp_syn  48.2 kpps  310 +- 40 pps    620 pps  2.48 kpps  yes      ABOVE",
            "  arp        2.0 pps  310 +- 40 pps   none yet   none yet  not yet",
            "(--metric bps shows the other rate, --class CLASS the last hour and week of one class)",
            "",
        ];
        assert_eq!(overview(&baseline, Metric::Pps, PIPED), wanted.join("\n"));
        assert!(overview(&baseline, Metric::Bps, PIPED).contains("No class was seen yet."));
        let terminal = Screen { unicode: true, ..PIPED };
        assert!(overview(&baseline, Metric::Pps, terminal).contains("310 ± 40 pps"));
    }

    #[test]
    fn one_class_is_plotted() {
        let text = one(&baseline(vec![view("tcp_syn", 310.0, true)]), "tcp_syn", None, PIPED);
        let wanted = "tcp_syn, packets a second\n  now 310 pps, normal 310 +- 40 pps, threshold 620 pps (2.0 times that), \
                      ceiling 2.48 kpps, trusted\n";
        assert!(text.contains(wanted), "{text}");
        assert!(text.contains("the last 3 minutes, pps\n      620 |---\n"), "{text}");
        assert!(text.contains("no hour is complete yet"), "{text}");
        assert!(text.is_ascii(), "{text}");
        let never = one(&baseline(Vec::new()), "esp", None, PIPED);
        assert!(never.contains("No packet of class esp was seen yet"), "{never}");
    }
}
