//! Judges what a replay reported against what the list asks for.

use serde::Serialize;
use serde_json::Value;

use super::{
    compose::{Case, Kind},
    list::Behaviour,
    mitigation::{self, Mitigation},
    removal::Removal,
};

/// An incident that opens so long after its attack has ended belongs to nothing, milliseconds.
const LATE_MS: f64 = 2000.0;

/// An incident of a report.
#[derive(Clone, Debug, Serialize)]
pub struct Incident {
    /// Its own vector.
    pub vector: String,
    /// All vectors that it names, sorted.
    pub vectors: Vec<String>,
    /// When it opened, virtual milliseconds.
    pub opened_ms: f64,
    /// When it closed.
    pub closed_ms: Option<f64>,
    /// Its severity.
    pub severity: String,
    /// Its confidence.
    pub confidence: f64,
    /// The numbers that it rests on.
    #[serde(skip)]
    pub evidence: Value,
}

impl Incident {
    fn read(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let names = value["vectors"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut vectors: Vec<_> = names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
        vectors.sort();
        Self {
            vector: text("vector"),
            vectors,
            // An incident without a time would be right at any time: it counts as opened too early.
            opened_ms: value["opened_ms"].as_f64().unwrap_or(-1.0),
            closed_ms: value["closed_ms"].as_f64(),
            severity: text("severity"),
            confidence: value["confidence"].as_f64().unwrap_or(0.0),
            evidence: value["evidence"].clone(),
        }
    }

    fn told(&self) -> String {
        let names = if self.vectors.len() > 1 {
            format!("{} [{}]", self.vector, self.vectors.join(", "))
        } else {
            self.vector.clone()
        };
        format!("{names} at {:.1} s, {}, confidence {:.2}", self.opened_ms / 1000.0, self.severity, self.confidence)
    }
}

/// How a case came out.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The case's name.
    pub name: String,
    /// Whether everything about it is right.
    pub right: bool,
    /// What is not, one line each.
    pub problems: Vec<String>,
    /// What was reported.
    pub incidents: Vec<Incident>,
    /// What was reported for the attack: the incident's vector, or why there is none.
    pub got: String,
    /// From the attack's first packet to the incident, milliseconds.
    pub detect_ms: Option<f64>,
    /// Incidents that no attack explains.
    pub false_incidents: usize,
    /// Virtual time, milliseconds.
    pub virtual_ms: f64,
    /// Packets that the program saw.
    pub packets: u64,
    /// Real time, milliseconds.
    pub wall_ms: u64,
    /// What was done about it, for attacks of the matrix.
    pub mitigation: Option<Mitigation>,
}

/// Judges a report, the JSON of `ftagent replay`, and what was removed meanwhile.
pub fn judge(case: &Case, report: &Value, removal: &Removal) -> Outcome {
    let incidents = report["incidents"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut outcome = Outcome {
        name: case.name.clone(),
        right: false,
        problems: Vec::new(),
        incidents: incidents.iter().map(Incident::read).collect(),
        got: String::new(),
        detect_ms: None,
        false_incidents: 0,
        virtual_ms: report["duration_ms"].as_f64().unwrap_or(0.0),
        packets: report["packets"].as_u64().unwrap_or(0),
        wall_ms: report["wall_ms"].as_u64().unwrap_or(0),
        mitigation: mitigation::judge(case, report, removal),
    };
    match &case.kind {
        Kind::Benign => {
            outcome.nothing(false);
            let lost = mitigation::dropped(report, |_| true);
            if lost.part > 0 {
                outcome.problems.push(format!("{} packets dropped", lost.part));
            }
        }
        Kind::Attack { vector, expected, window_ms, .. } => outcome.attack(expected, Some(vector), &[*window_ms]),
        Kind::Behaviour(behaviour) => {
            outcome.behaviour(behaviour);
            outcome.problems.extend(mitigation::problems(behaviour, report, removal));
        }
    }
    if outcome.packets == 0 {
        outcome.problems.push("no packet was replayed".to_owned());
    }
    outcome.right = outcome.problems.is_empty();
    outcome
}

/// The outcome of a case that could not be run.
pub fn broken(case: &Case, why: &str) -> Outcome {
    Outcome {
        name: case.name.clone(),
        right: false,
        problems: vec![format!("not run: {why}")],
        incidents: Vec::new(),
        got: "(not run)".to_owned(),
        detect_ms: None,
        false_incidents: 0,
        virtual_ms: 0.0,
        packets: 0,
        wall_ms: 0,
        mitigation: None,
    }
}

impl Outcome {
    fn nothing(&mut self, allow_info: bool) {
        let counts = |incident: &&Incident| !(allow_info && incident.severity == "info");
        let told: Vec<_> = self.incidents.iter().filter(counts).map(Incident::told).collect();
        self.false_incidents = told.len();
        self.got = if told.is_empty() { "(none)".to_owned() } else { "incident".to_owned() };
        self.problems.extend(told.into_iter().map(|told| format!("false incident: {told}")));
    }

    /// Judges attacks: the windows are those of the same attack that comes again.
    fn attack(&mut self, expected: &[String], vector: Option<&str>, windows: &[(u64, u64)]) {
        let within = |incident: &Incident, (start, stop): (u64, u64)| {
            incident.opened_ms >= start as f64 && incident.opened_ms <= stop as f64 + LATE_MS
        };
        let incidents = self.incidents.clone();
        for incident in &incidents {
            if !windows.iter().any(|window| within(incident, *window)) {
                self.false_incidents += 1;
                self.problems.push(format!("outside the attack: {}", incident.told()));
            }
        }
        let Some(&first_window) = windows.first() else { return };
        let found: Vec<_> = incidents.iter().filter(|incident| within(incident, first_window)).collect();
        let Some(first) = found.first() else {
            self.got = "(missed)".to_owned();
            self.problems.push("missed".to_owned());
            return;
        };
        self.detect_ms = Some(first.opened_ms - first_window.0 as f64);
        self.got = first.vector.clone();
        let own = vector.unwrap_or(if expected.len() > 1 { "multi_vector" } else { &expected[0] });
        for window in windows {
            let mut named: Vec<_> = incidents.iter().filter(|i| within(i, *window)).flat_map(|i| &i.vectors).collect();
            named.sort();
            named.dedup();
            // A second attack may find the incident of the first still open.
            if !named.is_empty() && !named.iter().copied().eq(expected) {
                self.got = format!("{} [{}]", self.got, join(&named));
                self.problems.push(format!("named {}, not {}", join(&named), expected.join(" + ")));
            }
        }
        if first.vector != own && self.problems.is_empty() {
            self.problems.push(format!("the incident is a {}, not a {own}", first.vector));
        }
    }

    fn behaviour(&mut self, behaviour: &Behaviour) {
        let Some(window) = behaviour.attack_ms else { return self.nothing(behaviour.allow_info) };
        let windows: Vec<_> = [Some(window), behaviour.again_ms].into_iter().flatten().collect();
        self.attack(&behaviour.vectors, None, &windows);
        let Some(detect_ms) = self.detect_ms else { return };
        if let Some(bound) = behaviour.within_ms
            && detect_ms > bound as f64
        {
            self.problems.push(format!("detected after {detect_ms:.0} ms, not within {bound}"));
        }
        if behaviour.one_incident && self.incidents.len() != 1 {
            self.problems.push(format!("{} incidents, not one", self.incidents.len()));
        }
        if let Some(until) = behaviour.held_until_ms
            && self.incidents.iter().all(|incident| incident.closed_ms.is_some_and(|closed| closed < until as f64))
        {
            self.problems.push(format!("closed before {until} ms"));
        }
        if let (Some(ramp), Some(below)) = (behaviour.ramp, behaviour.below_pps) {
            let reached = ramp.at(detect_ms);
            if reached > below {
                self.problems.push(format!("the ramp had reached {reached:.0} packets a second, over {below}"));
            }
        }
        if let Some((key, value)) = &behaviour.evidence
            && !self.incidents.iter().any(|incident| says(&incident.evidence, key, value))
        {
            self.problems.push(format!("the evidence does not say {key} {value}"));
        }
        self.second_attack(behaviour, detect_ms);
    }

    /// The same attack again: seen as fast, or its incident still open.
    fn second_attack(&mut self, behaviour: &Behaviour, first_ms: f64) {
        let Some((start, stop)) = behaviour.again_ms else { return };
        let (start, stop) = (start as f64, stop as f64);
        let open = |incident: &Incident| incident.opened_ms < start && incident.closed_ms.is_none_or(|at| at > start);
        let again = self.incidents.iter().find(|incident| (start..stop).contains(&incident.opened_ms));
        // Two ticks, for what the beginning of a tick adds.
        let bound = first_ms.max(300.0) + 200.0;
        match again {
            Some(again) if again.opened_ms - start > bound => {
                let took = again.opened_ms - start;
                self.problems.push(format!("again: after {took:.0} ms, the first time after {first_ms:.0}"));
            }
            Some(_) => {}
            None if self.incidents.iter().any(open) => {}
            None => self.problems.push("again: missed".to_owned()),
        }
    }
}

fn join(names: &[&String]) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" + ")
}

/// Returns whether a value stands under a key, at any depth.
fn says(evidence: &Value, key: &str, value: &str) -> bool {
    match evidence {
        Value::Object(map) => {
            let here = map.get(key).is_some_and(|found| found.to_string().contains(&format!("\"{value}\"")));
            here || map.values().any(|inner| says(inner, key, value))
        }
        Value::Array(values) => values.iter().any(|inner| says(inner, key, value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn case(kind: Kind) -> Case {
        Case { name: "a/3x/web".to_owned(), kind, text: String::new(), needs: Vec::new(), weight: 0.0 }
    }

    fn attack(vector: &str, expected: &[&str]) -> Case {
        case(Kind::Attack {
            attack: "a".to_owned(),
            vector: vector.to_owned(),
            expected: expected.iter().map(|name| (*name).to_owned()).collect(),
            intensity: "3x".to_owned(),
            ratio: 3.0,
            background: "web".to_owned(),
            window_ms: (40_000, 50_000),
            real: true,
            constant: true,
        })
    }

    fn incident(vector: &str, vectors: &[&str], opened: u64, closed: Option<u64>) -> Value {
        json!({ "vector": vector, "vectors": vectors, "opened_ms": opened, "closed_ms": closed, "severity": "low",
            "evidence": [{ "source_ports": [{ "value": "123", "share": 1.0 }] }] })
    }

    fn judged(case: &Case, report: &Value) -> Outcome {
        judge(case, report, &Removal::new((0, 0), false))
    }

    fn report(incidents: &[Value]) -> Value {
        json!({ "duration_ms": 60_000, "packets": 9, "wall_ms": 1, "incidents": incidents })
    }

    #[test]
    fn an_attack_is_right_only_with_exactly_its_vectors_in_its_time() {
        let syn = || incident("syn_flood", &["syn_flood"], 40_200, None);
        let both = incident("multi_vector", &["udp_flood", "syn_flood"], 40_100, None);
        let rows = [
            ("right", vec![syn()], true),
            ("missed", vec![], false),
            ("early", vec![incident("syn_flood", &["syn_flood"], 39_900, None)], false),
            ("early and right", vec![incident("udp_flood", &["udp_flood"], 100, Some(200)), syn()], false),
            ("after the end", vec![incident("syn_flood", &["syn_flood"], 53_000, None)], false),
            ("wrong", vec![incident("ack_flood", &["ack_flood"], 40_200, None)], false),
            ("one name too many", vec![both.clone()], false),
            ("a second incident", vec![syn(), incident("udp_flood", &["udp_flood"], 45_000, None)], false),
            ("the same twice", vec![syn(), incident("syn_flood", &["syn_flood"], 45_000, None)], true),
            ("without a time", vec![json!({ "vector": "syn_flood", "vectors": ["syn_flood"] })], false),
        ];
        for (name, incidents, right) in rows {
            let outcome = judged(&attack("syn_flood", &["syn_flood"]), &report(&incidents));
            assert_eq!(outcome.right, right, "{name}: {:?}", outcome.problems);
        }
        let two = attack("multi_vector", &["syn_flood", "udp_flood"]);
        assert!(judged(&two, &report(&[both])).right);
        let apart = [syn(), incident("udp_flood", &["udp_flood"], 40_300, None)];
        assert!(!judged(&two, &report(&apart)).right, "two incidents are not one");
    }

    #[test]
    fn behaviours_hold_what_they_say() {
        let base = || Behaviour {
            vectors: vec!["ntp_amplification".to_owned()],
            attack_ms: Some((40_000, 50_000)),
            ..Behaviour::default()
        };
        let ntp = |opened, closed| incident("ntp_amplification", &["ntp_amplification"], opened, closed);
        let rows = [
            ("within", Behaviour { within_ms: Some(250), ..base() }, vec![ntp(40_250, None)], true),
            ("too slow", Behaviour { within_ms: Some(250), ..base() }, vec![ntp(40_300, None)], false),
            ("held", Behaviour { held_until_ms: Some(49_000), ..base() }, vec![ntp(40_200, Some(49_500))], true),
            ("not held", Behaviour { held_until_ms: Some(49_000), ..base() }, vec![ntp(40_200, Some(44_000))], false),
            (
                "evidence",
                Behaviour { evidence: Some(("source_ports".into(), "123".into())), ..base() },
                vec![ntp(40_200, None)],
                true,
            ),
            (
                "other evidence",
                Behaviour { evidence: Some(("source_ports".into(), "12".into())), ..base() },
                vec![ntp(40_200, None)],
                false,
            ),
            (
                "again",
                Behaviour { again_ms: Some((55_000, 60_000)), ..base() },
                vec![ntp(40_200, Some(52_000)), ntp(55_200, None)],
                true,
            ),
            (
                "again, still open",
                Behaviour { again_ms: Some((55_000, 60_000)), ..base() },
                vec![ntp(40_200, Some(58_000))],
                true,
            ),
            (
                "again, missed",
                Behaviour { again_ms: Some((55_000, 60_000)), ..base() },
                vec![ntp(40_200, Some(52_000))],
                false,
            ),
            (
                "again, slow",
                Behaviour { again_ms: Some((55_000, 60_000)), ..base() },
                vec![ntp(40_200, Some(52_000)), ntp(57_000, None)],
                false,
            ),
            ("info", Behaviour { allow_info: true, ..Behaviour::default() }, vec![json!({ "severity": "info" })], true),
            ("more than info", Behaviour { allow_info: true, ..Behaviour::default() }, vec![ntp(1, None)], false),
        ];
        for (name, behaviour, incidents, right) in rows {
            let outcome = judged(&case(Kind::Behaviour(Box::new(behaviour))), &report(&incidents));
            assert_eq!(outcome.right, right, "{name}: {:?}", outcome.problems);
        }
    }

    #[test]
    fn nothing_ordinary_is_an_incident() {
        assert!(judged(&case(Kind::Benign), &report(&[])).right);
        let outcome = judged(&case(Kind::Benign), &report(&[json!({ "severity": "info", "opened_ms": 5 })]));
        assert_eq!((outcome.right, outcome.false_incidents), (false, 1));
        assert!(!judged(&case(Kind::Benign), &json!({ "packets": 0 })).right, "nothing was replayed");
    }
}
