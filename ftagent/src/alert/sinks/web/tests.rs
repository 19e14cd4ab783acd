//! What an answer says, and what it does not.

use ureq::http::HeaderMap;

use super::*;

const URL: &str =
    "https://hooks.example.net/services/T0AAAAAAA/B0BBBBBBB/abcdefghijklmnopqrstuvwx?sig=0123456789abcdef";

fn reply(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply { status, headers: HeaderMap::new(), body: body.into() }
}

#[test]
fn an_answer_that_repeats_the_address_is_told_without_it() {
    let padding = "x".repeat(EXCERPT - 20);
    let cases = [
        format!("no such hook: {URL}"),
        "no such hook: /services/T0AAAAAAA/B0BBBBBBB/abcdefghijklmnopqrstuvwx".to_owned(),
        "services/T0AAAAAAA/B0BBBBBBB/abcdefghijklmnopqrstuvwx is gone".to_owned(),
        "unknown token abcdefghijklmnopqrstuvwx".to_owned(),
        "bad signature 0123456789abcdef".to_owned(),
        format!("{{\"url\":\"{}\"}}", URL.replace('/', "\\/")),
        // Cut in the middle of it, it would not be known for what it is.
        format!("{padding} {URL}"),
        format!("{padding}/services/T0AAAAAAA/B0BBBBBBB/abcdefghijklmnopqrstuvwx"),
    ];
    for body in cases {
        for (url, secrets) in [(URL, &[URL][..]), ("", &[URL][..]), (URL, &[][..])] {
            let said = excerpt(&reply(400, body.clone()), url, secrets);
            for part in ["T0AAA", "B0BBB", "abcdefghijkl", "0123456789ab"] {
                assert!(!said.contains(part), "{body:?} became {said:?}");
            }
            assert!(said.chars().count() <= EXCERPT, "{said:?}");
        }
        let Err(failure) = judge(&reply(400, body.clone()), &[URL]) else { panic!("400 is no yes") };
        assert!(!failure.why().contains("abcdefghijkl"), "{failure:?}");
    }
}

#[test]
fn a_secret_within_a_header_is_taken_out_and_hosts_are_told() {
    let said =
        excerpt(&reply(401, "token s3cretS3cretS3 is no good at hooks.example.net"), URL, &["Bearer s3cretS3cretS3"]);
    assert_eq!(said, "token … is no good at hooks.example.net");
    assert_eq!(excerpt(&reply(200, "  ok\n then "), URL, &[URL]), "ok then");
}
