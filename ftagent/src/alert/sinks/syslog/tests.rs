//! Lines as RFC 5424 and CEF have them.

use super::*;
use crate::alert::message::tests::opened;

#[test]
fn a_line_of_rfc_5424() {
    let mut alert = opened();
    alert.link = Some("https://x/\"]\\".to_owned());
    let text = message(&alert, SyslogFormat::Rfc5424, 16, MESSAGE);
    let head =
        format!("<130>1 2026-08-01T12:00:01.000Z edge1 ftagent {} opened [ftagent@32473 id=", std::process::id());
    assert!(text.starts_with(&head), "{text}");
    assert!(text.contains(" link=\"https://x/\\\"\\]\\\\\"] \u{feff}ATTACK on edge1: syn_flood"), "{text}");
    assert!(text.contains(" peak_pps=\"60000\"") && !text.contains('\n'));
}

#[test]
fn what_is_too_long_is_cut_between_characters() {
    let mut alert = opened();
    alert.title = "ä".repeat(4000);
    for most in 1390..1400 {
        let text = message(&alert, SyslogFormat::Rfc5424, 3, most);
        assert!(text.len() <= most && text.len() > most - 2);
    }
}

#[test]
fn a_line_of_cef() {
    let mut alert = opened();
    alert.vectors = vec!["a|b".to_owned()];
    alert.title = "1=2\\3\n4".to_owned();
    let text = cef(&alert);
    assert!(
        text.starts_with(&format!(
            "CEF:0|ftagent|ftagent|{}|a\\|b.opened|a\\|b opened|8|rt=",
            env!("CARGO_PKG_VERSION")
        )),
        "{text}"
    );
    assert!(text.contains(" msg=1\\=2\\\\3\\n4 "), "{text}");
    assert!(
        text.contains(" cs1Label=incident cs1=20260801T120000Z-1 ") && text.ends_with("cnt=3480000 act=none"),
        "{text}"
    );
}
