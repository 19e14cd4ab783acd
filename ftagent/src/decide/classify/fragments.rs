//! Fragments: whether they ever make a datagram.

use ftagent_common::TrafficClass::{self, *};

use super::super::{
    Vector,
    analyst::Seen,
    table::{Tally, mix},
};
use super::{
    scene::{BEFORE_NS, Opinion, Proposal, Scene, Window},
    traits::{Traits, hash_of, only, weight},
};

/// Fragments that are looked at.
const MOST: usize = 1024;

/// Fragments of a window.
#[derive(Clone, Debug)]
pub struct Fragments<'a> {
    all: Vec<&'a Seen>,
    firsts: Vec<&'a Seen>,
}

impl<'a> Fragments<'a> {
    /// Collects them, if they exceed normal.
    pub fn of(scene: &Scene<'a>, window: &Window<'a>) -> Option<Self> {
        if scene.excess_of(FragFirst).is_none() && scene.excess_of(FragNext).is_none() {
            return None;
        }
        // Without gaps, so that whole datagrams are whole: the newest of them.
        let is_fragment = |seen: &&Seen| matches!(seen.class, FragFirst | FragNext);
        let since = window.since(FragFirst).min(window.since(FragNext)).saturating_sub(BEFORE_NS);
        let within = |seen: &&Seen| seen.packet.time_ns >= since;
        let mut all: Vec<&Seen> = scene.ring.iter().rev().take_while(within).filter(is_fragment).take(MOST).collect();
        all.reverse();
        let firsts = only(&all, |seen| seen.class == FragFirst);
        Some(Self { all, firsts })
    }

    /// Returns the first fragments of a reflector's answers, if most first fragments are such.
    pub fn from(&self, class: TrafficClass) -> Option<Vec<&'a Seen>> {
        let own = only(&self.firsts, |seen| {
            seen.packet.is_udp() && ftagent_common::ports::by_source(seen.packet.sport) == Some(class)
        });
        (own.len() >= 5 && weight(&own) >= 0.6 * weight(&self.firsts)).then_some(own)
    }
}

/// What the datagrams look like.
struct Datagrams {
    /// Different ones.
    count: usize,
    /// Share of fragments whose datagram's first fragment was seen.
    begun: f64,
    /// Share of fragments whose datagram's last fragment was seen.
    ended: f64,
    /// Share of fragments that are smaller than any network makes them, the last aside.
    tiny: f64,
    /// Fragments for each datagram.
    pieces: f64,
    /// Share of fragments that say what another of the datagram said.
    overlapping: f64,
}

fn identity(seen: &Seen) -> u64 {
    let id = seen.packet.fragment.map_or(0, |fragment| fragment.id);
    let (src, dst) = seen.packet.ends.map_or((0, 0), |(src, dst)| (hash_of(src), hash_of(dst)));
    mix(src ^ dst.rotate_left(17) ^ u64::from(id))
}

impl Datagrams {
    fn of(scene: &Scene<'_>, list: &[&Seen]) -> Self {
        let tally = || Tally::with_capacity(list.len(), scene.seed);
        let (mut all, mut firsts, mut lasts, mut places) = (tally(), tally(), tally(), tally());
        for seen in list {
            let Some(fragment) = seen.packet.fragment else { continue };
            let datagram = identity(seen);
            all.add(datagram, 1.0);
            places.add(mix(datagram ^ u64::from(fragment.offset)), 1.0);
            if fragment.offset == 0 {
                firsts.add(datagram, 1.0);
            }
            if !fragment.more {
                lasts.add(datagram, 1.0);
            }
        }
        let (firsts, lasts) = (firsts.counts(), lasts.counts());
        let within = |of: &[(u64, u32)], seen: &Seen| of.binary_search_by_key(&identity(seen), |(id, _)| *id).is_ok();
        let total = weight(list).max(1.0);
        let share = |keep: &dyn Fn(&Seen) -> bool| weight(&only(list, |seen| keep(seen))) / total;
        Self {
            count: all.distinct(),
            begun: share(&|seen| within(&firsts, seen)),
            ended: share(&|seen| within(&lasts, seen)),
            // Every IPv4 link carries 576 bytes (RFC 791), every IPv6 link 1280 (RFC 8200).
            tiny: share(&|seen| seen.packet.wire < 400 && seen.packet.fragment.is_some_and(|fragment| fragment.more)),
            pieces: list.len() as f64 / all.distinct().max(1) as f64,
            overlapping: 1.0 - places.spread(),
        }
    }
}

/// Judges fragments that belong to no amplification.
pub fn judge<'a>(scene: &Scene<'a>, fragments: &Fragments<'a>, out: &mut Vec<Opinion<'a>>) {
    let list = &fragments.all;
    if list.len() < 20 {
        return;
    }
    let traits = Traits::of(scene, list);
    if traits.multicast > 0.5 {
        out.push(Opinion::Ordinary("fragments: to groups of receivers".to_owned()));
        return;
    }
    let datagrams = Datagrams::of(scene, list);
    let whole = weight(list) <= 1.2 * list.len() as f64;
    // Where some are not sampled, firsts against all must do: a datagram has one first.
    let firsts = weight(&fragments.firsts) / weight(list).max(1.0);
    let orphaned = if whole {
        1.0 - datagrams.begun
    } else if firsts < 0.01 {
        1.0
    } else {
        0.0
    };
    let endless = if whole {
        1.0 - datagrams.ended
    } else if firsts > 0.9 {
        1.0
    } else {
        0.0
    };
    let classes = [FragFirst, FragNext];
    let pps: f64 = classes.iter().map(|class| scene.above(*class)).sum();
    let lift = classes.iter().map(|class| scene.lift(*class)).fold(1.0, f64::max);
    let many = list.len() >= 200;
    let (confidence, hard, why) = if datagrams.tiny >= 0.6 {
        (0.93, many, format!("{:.0} % are smaller than any network makes them", datagrams.tiny * 100.0))
    } else if orphaned >= 0.6 {
        (0.9, many && orphaned >= 0.9, format!("{:.0} % belong to datagrams without a beginning", orphaned * 100.0))
    } else if endless >= 0.6 {
        (0.9, many && endless >= 0.9, format!("{:.0} % belong to datagrams without an end", endless * 100.0))
    } else if whole && datagrams.overlapping >= 0.5 && datagrams.pieces >= 4.0 {
        (0.8, false, format!("{:.0} % overlap others", datagrams.overlapping * 100.0))
    } else if traits.sources.spread() >= 0.5 && traits.samples >= 200 && pps >= 1000.0 {
        (0.85, true, format!("{} sources, a datagram or two each", traits.many()))
    } else if lift >= 10.0 && pps >= 20_000.0 {
        (0.55, false, format!("{} datagrams, {lift:.0} times what is normal", datagrams.count))
    } else {
        out.push(Opinion::Ordinary("fragments: they make whole datagrams of few hosts".to_owned()));
        return;
    };
    let proposal = Proposal::new(scene, Vector::FragmentFlood, &classes, list.clone());
    out.push(Opinion::Attack(proposal.sure(confidence, hard, why)));
}
