//! Documentation that mirrors code is generated from it; these tests fail when it is out of date.
//! `FTAGENT_BLESS=1 cargo test -p ftagent --lib documents` writes it anew.

use std::{fmt::Write as _, fs, path::Path};

use ftagent_common::{DropReason, TrafficClass};

use crate::{decide::Vector, serve::metrics::METRICS};

fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("FTAGENT_BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "docs/{name} is not what the code says: run this test with FTAGENT_BLESS=1");
}

#[test]
fn classes() {
    let mut text = "# Traffic classes and drop reasons\n\n\
        Generated from `ftagent-common`. Every packet is in exactly one class, every drop has exactly one\n\
        reason. The names stand in metrics, `ftagent status` and reports, and do not change.\n\n\
        | class | what is in it |\n|---|---|\n"
        .to_owned();
    for class in TrafficClass::ALL {
        writeln!(text, "| `{}` | {} |", class.as_str(), class.about().trim()).unwrap();
    }
    text.push_str("\n| reason | why the packet was dropped |\n|---|---|\n");
    for reason in DropReason::ALL {
        writeln!(text, "| `{}` | {} |", reason.as_str(), reason.about().trim()).unwrap();
    }
    check("CLASSES.md", &text);
}

#[test]
fn metrics() {
    let mut text = "# Metrics\n\n\
        Generated from `ftagent/src/serve/metrics.rs`. Prometheus text format at `http://127.0.0.1:9464/metrics`\n\
        (`metrics.listen`). Labels are bounded: interfaces, [classes and reasons](CLASSES.md), verdicts, lists,\n\
        modes, states, planes, slots of rules, rungs, sinks, results, shipped patterns, the version, and the vectors\n\
        below.\n\n\
        | metric | what it says |\n|---|---|\n"
        .to_owned();
    for (name, help) in METRICS {
        writeln!(text, "| `{name}` | {help} |").unwrap();
    }
    text.push_str(
        "\nOne alert on attacks: `sum(ftagent_incident_active) > 0`. Every vector has a series from the start.\n\n\
        | vector | what it is |\n|---|---|\n",
    );
    for vector in Vector::ALL {
        writeln!(text, "| `{}` | {} |", vector.as_str(), vector.about().trim()).unwrap();
    }
    check("METRICS.md", &text);
}

#[test]
fn indicators() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/INDICATORS.md");
    let text = fs::read_to_string(path).unwrap_or_default();
    check("INDICATORS.md", &crate::record::ioc::markdown(&text));
}
