#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use proptest::prelude::*;

use super::*;
use crate::replay::schedule::SECOND;

fn parse(text: &str) -> Result<Scenario, ScenarioError> {
    Scenario::parse(text, Path::new("/scenarios/s.toml"))
}

/// The scenario of DESIGN, every key of it.
const EVERYTHING: &str = r#"
duration = "90s"
seed = 7
[config]
mitigation.mode = "auto"
[[source]]
name   = "web"
file   = "captures/web.pcap"
label  = "benign"
start  = "0s"
stop   = "90s"
pps    = 2000
arrivals = "poisson"
ramp   = { to = 50000, over = "20s" }
pulse  = { on = "4s", off = "1s" }
loop   = true
rewrite = { dst = "198.51.100.10", dst6 = "2001:db8::10", src = "keep" }
[[source]]
name   = "flood"
file   = "/elsewhere/flood.pcap"
label  = "attack"
victim = "192.0.2.1"
rewrite = { dst = "198.51.100.77/24", src = "pool:300" }
expect = { vector = "syn_flood" }
"#;

#[test]
fn every_key_is_understood() {
    let scenario = parse(EVERYTHING).unwrap();
    assert_eq!((scenario.duration, scenario.seed, scenario.config.len()), (90 * SECOND, 7, 1));
    let pulse = Some(Pulse { on: 4 * SECOND, off: SECOND });
    let ramp = Some(Ramp { to: 50_000.0, over: 20 * SECOND });
    let web = SourceSpec {
        label: Some(Label::Benign),
        stop: 90 * SECOND,
        pace: Some(Pace { pps: 2000.0, arrivals: Arrivals::Poisson, ramp, pulse }),
        pulse,
        repeats: true,
        rewrite: Rewrite {
            dst: "198.51.100.10/32".parse().ok(),
            dst6: "2001:db8::10/128".parse().ok(),
            src: Sources::Keep,
        },
        ..SourceSpec::plain("web".into(), "/scenarios/captures/web.pcap".into())
    };
    let flood = SourceSpec {
        label: Some(Label::Attack),
        stop: 90 * SECOND,
        victim: "192.0.2.1".parse().ok(),
        rewrite: Rewrite { dst: "198.51.100.0/24".parse().ok(), dst6: None, src: Sources::Pool(300) },
        expect: Some("syn_flood".into()),
        ..SourceSpec::plain("flood".into(), "/elsewhere/flood.pcap".into())
    };
    assert_eq!(scenario.sources, [web, flood]);
}

#[test]
fn every_mistake_is_named_with_its_line_and_the_remedy() {
    let source =
        |line: &str| format!("duration = \"9s\"\n[[source]]\nname = \"a\"\nfile = \"f\"\nlabel = \"attack\"\n{line}\n");
    let table = [
        ("stat = \"1s\"", "line 6: `source[0].stat`: unknown key; the nearest known one is `start`"),
        (
            "rewrite = { dts = \"10.0.0.1\" }",
            "line 6: `source[0].rewrite.dts`: unknown key; the nearest known one is `dst`",
        ),
        ("pulse = { on = \"1s\" }", "line 6: `source[0].pulse.off`: is missing"),
        ("pulse = { on = \"1s\", off = \"1us\" }", "line 6: `source[0].pulse.off`: must be at least 1ms"),
        ("pps = 0", "line 6: `source[0].pps`: must be above 0 and at most 100000000 packets per second"),
        ("pps = nan", "line 6: `source[0].pps`: must be above 0"),
        ("pps = \"fast\"", "line 6: `source[0].pps`: expected packets per second, found string"),
        ("arrivals = \"even\"", "line 6: `source[0].arrivals`: needs `pps`"),
        ("ramp = { to = 5, over = \"1s\" }", "line 6: `source[0].ramp`: needs `pps`"),
        ("pps = 1\nramp = { to = 5, over = \"0s\" }", "line 7: `source[0].ramp.over`: must be longer than 0"),
        (
            "pps = 1\narrivals = \"evn\"",
            "line 7: `source[0].arrivals`: unknown value \"evn\"; the nearest known one is `even`",
        ),
        ("loop = 1", "line 6: `source[0].loop`: expected true or false, found integer"),
        ("start = \"9s\"", "line 6: `source[0].start`: must be before the scenario's end"),
        ("start = \"2s\"\nstop = \"1s\"", "line 7: `source[0].stop`: must be after `start`"),
        ("start = \"soon\"", "line 6: `source[0].start`: not a duration such as \"90s\""),
        ("rewrite = { dst = \"2001:db8::1\" }", "line 6: `source[0].rewrite.dst`: is IPv6: use `dst6`"),
        ("rewrite = { dst = \"10.0.0.300\" }", "\"10.0.0.300\" is neither an IP address nor a prefix"),
        ("rewrite = { src = \"pool:0\" }", "a pool has from 1 to 1048576 addresses"),
        ("rewrite = { src = \"random\" }", "is none of \"keep\", \"spoof\", \"pool:N\" and \"prefix:CIDR\""),
        ("rewrite = { src = \"prefix:10/8\" }", "\"10/8\" is not a prefix"),
        ("victim = \"me\"", "line 6: `source[0].victim`: \"me\" is not an IP address"),
        ("expect = {}", "line 6: `source[0].expect.vector`: is missing"),
        (
            "[[source]]\nname = \"a\"\nfile = \"f\"\nlabel = \"benign\"",
            "line 7: `source[1].name`: another source has this name",
        ),
        ("[[source]]\nname = \"b\"\nlabel = \"benign\"", "line 6: `source[1].file`: is missing"),
        (
            "[[source]]\nname = \"b\"\nfile = \"f\"\nlabel = \"attacker\"",
            "line 9: `source[1].label`: unknown value \"attacker\"; the nearest known one is `attack`",
        ),
        (
            "[[source]]\nname = \"b\"\nfile = \"f\"\nlabel = \"benign\"\nexpect = { vector = \"x\" }",
            "only attack sources can expect a vector",
        ),
    ];
    for (line, message) in table {
        let error = parse(&source(line)).unwrap_err().to_string();
        assert!(error.contains(message), "{line}\n{error}");
        assert!(error.starts_with("/scenarios/s.toml: 1 problem\n"), "{error}");
    }
}

#[test]
fn the_top_is_checked_too() {
    let table = [
        ("", "`duration`: is missing"),
        ("", "`source`: is missing: a scenario has at least one [[source]]"),
        ("duration = \"0s\"", "line 1: `duration`: must be longer than 0"),
        ("seed = -1", "line 1: `seed`: must be from 0 to 2^64 - 1"),
        ("sources = []", "line 1: `sources`: unknown key; the nearest known one is `source`"),
        ("source = 5", "expected an array of tables: [[source]]"),
        ("source = [5]", "`source[0]`: expected a table, found integer"),
        ("config = 5", "expected a table: [config]"),
        ("duration = ", "TOML parse error at line 1"),
    ];
    for (text, message) in table {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(message), "{text}\n{error}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = EVERYTHING.replace("loop ", "lop ").replace("attack\"", "atack\"").replace("90s\"\nseed", "x\"\nseed");
    let error = parse(&text).unwrap_err().to_string();
    assert!(error.contains(": 3 problems\n  line 2:"), "{error}");
}

proptest! {
    #[test]
    fn text_never_panics(text in "\\PC{0,200}") {
        let _either = parse(&text);
    }

    #[test]
    fn changed_scenarios_never_panic(at in 0..EVERYTHING.len(), length in 0..30usize, with in "[0-9a-z\"={}\\[\\]. -]{0,6}") {
        let end = (at + length).min(EVERYTHING.len());
        let _either = parse(&format!("{}{with}{}", &EVERYTHING[..at], &EVERYTHING[end..]));
    }
}
