//! Block lists as nftables takes them: intervals that do not overlap, each with an end.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use ipnet::IpNet;
use serde_json::{Value, json};

/// A prefix of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The prefix.
    pub net: IpNet,
    /// How long it stays; `None`: until it is taken off.
    pub lasts: Option<Duration>,
}

/// Addresses from the first to the last, with the time that is left to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The first address.
    pub first: IpAddr,
    /// The last address.
    pub last: IpAddr,
    /// How long they stay; `None`: until they are taken off.
    pub lasts: Option<Duration>,
}

/// Divides the prefixes of one family into intervals. Where prefixes lie in others, an address stays as
/// long as the longest of them.
pub fn intervals(entries: &[Entry], is4: bool) -> Vec<Interval> {
    let own = entries.iter().filter(|entry| entry.net.addr().is_ipv4() == is4);
    let mut spans: Vec<(u128, u128, u64)> = own.map(span).collect();
    // Prefixes are apart or one lies in the other: outer ones come first.
    spans.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    let mut flat: Vec<(u128, u128, u64)> = Vec::with_capacity(spans.len());
    let mut open: Vec<(u128, u64)> = Vec::new();
    let mut at = 0u128;
    let mut close = |open: &mut Vec<(u128, u64)>, at: &mut u128, before: Option<u128>| {
        while let Some(&(last, lasts)) = open.last() {
            if before.is_some_and(|before| last >= before) {
                break;
            }
            if *at <= last {
                push(&mut flat, (*at, last, lasts));
                let Some(next) = last.checked_add(1) else {
                    // Nothing lies behind the last address.
                    open.clear();
                    return;
                };
                *at = next;
            }
            open.pop();
        }
        if let (Some(&(_, lasts)), Some(before)) = (open.last(), before.filter(|before| *at < *before)) {
            push(&mut flat, (*at, before - 1, lasts));
        }
        if let Some(before) = before {
            *at = before;
        }
    };
    for (first, last, lasts) in spans {
        close(&mut open, &mut at, Some(first));
        let outer = open.last().map_or(0, |(_, lasts)| *lasts);
        open.push((last, lasts.max(outer)));
    }
    close(&mut open, &mut at, None);
    let address = |bits: u128| match u32::try_from(bits) {
        Ok(bits) if is4 => Ipv4Addr::from(bits).into(),
        _ => IpAddr::from(Ipv6Addr::from(bits)),
    };
    let lasts = |seconds| (seconds != u64::MAX).then_some(Duration::from_secs(seconds));
    flat.into_iter()
        .map(|(first, last, s)| Interval { first: address(first), last: address(last), lasts: lasts(s) })
        .collect()
}

fn span(entry: &Entry) -> (u128, u128, u64) {
    let bits = |address| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    // Timeouts are whole seconds; the kernel program's end may come within one.
    let seconds = entry.lasts.map_or(u64::MAX, |lasts| (lasts.as_millis().div_ceil(1000) as u64).max(1));
    (bits(entry.net.network()), bits(entry.net.broadcast()), seconds)
}

/// Adds an interval, to the one before it where it goes on.
fn push(flat: &mut Vec<(u128, u128, u64)>, next: (u128, u128, u64)) {
    match flat.last_mut() {
        Some(before) if before.2 == next.2 && before.1.checked_add(1) == Some(next.0) => before.1 = next.1,
        _ => flat.push(next),
    }
}

impl Interval {
    /// Returns the element of a set.
    pub fn json(&self) -> Value {
        let (first, last) = (self.first.to_string(), self.last.to_string());
        let value = if first == last { json!(first) } else { json!({ "range": [first, last] }) };
        match self.lasts {
            Some(lasts) => json!({ "elem": { "val": value, "timeout": lasts.as_secs().max(1) } }),
            None => value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_stays_as_long_as_the_longest_prefix_that_has_it() {
        type Case = (&'static [(&'static str, u64)], &'static [&'static str]);
        let cases: &[Case] = &[
            (&[], &[]),
            (&[("10.0.0.1/32", 5)], &["10.0.0.1-10.0.0.1 5"]),
            (&[("10.0.0.0/24", 5), ("10.0.0.7/32", 3)], &["10.0.0.0-10.0.0.255 5"]),
            (
                &[("10.0.0.0/24", 5), ("10.0.0.7/32", 9)],
                &["10.0.0.0-10.0.0.6 5", "10.0.0.7-10.0.0.7 9", "10.0.0.8-10.0.0.255 5"],
            ),
            (&[("10.0.0.0/25", 5), ("10.0.0.128/25", 5)], &["10.0.0.0-10.0.0.255 5"]),
            (
                &[("10.0.0.0/24", 5), ("10.0.0.0/32", 9), ("10.0.0.255/32", 9)],
                &["10.0.0.0-10.0.0.0 9", "10.0.0.1-10.0.0.254 5", "10.0.0.255-10.0.0.255 9"],
            ),
            (
                &[("10.0.0.0/8", 1), ("10.0.0.0/16", 2), ("10.0.0.0/24", 3), ("11.0.0.0/8", 1)],
                &["10.0.0.0-10.0.0.255 3", "10.0.1.0-10.0.255.255 2", "10.1.0.0-11.255.255.255 1"],
            ),
            (
                &[("0.0.0.0/0", 1), ("255.255.255.255/32", 2)],
                &["0.0.0.0-255.255.255.254 1", "255.255.255.255-255.255.255.255 2"],
            ),
        ];
        for (entries, expected) in cases {
            let entries = entries
                .iter()
                .map(|(net, s)| Entry { net: net.parse().unwrap(), lasts: Some(Duration::from_secs(*s)) });
            let found = intervals(&entries.collect::<Vec<_>>(), true);
            let text = |i: &Interval| format!("{}-{} {}", i.first, i.last, i.lasts.unwrap().as_secs());
            assert_eq!(found.iter().map(text).collect::<Vec<_>>(), *expected);
        }
        let all = [
            Entry { net: "::/0".parse().unwrap(), lasts: None },
            Entry { net: "ffff::/16".parse().unwrap(), lasts: Some(Duration::from_millis(1)) },
        ];
        let found = intervals(&all, false);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].last, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse::<IpAddr>().unwrap());
    }
}
