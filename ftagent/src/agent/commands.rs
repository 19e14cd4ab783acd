//! What callers of the control socket ask for.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use ftagent_common::lists::ListEntry;
use ipnet::IpNet;
use sd_notify::NotifyState;
use serde_json::{Value, json, to_value};
use tracing::{error, info, warn};

use super::{Agent, audit::actor, planes::CLEARING};
use crate::{
    act::store::origin,
    bpf::lists::Which,
    config::Config,
    record::audit::Actor,
    serve::{
        control::Caller,
        protocol::{Answer, Entry, Request, Rules, Word},
    },
};

impl Agent {
    /// Does what is asked. The second value says whether it was done.
    pub(super) fn answer(&mut self, request: Request, caller: &Caller) -> (Answer, bool) {
        match self.audited(request, caller) {
            Ok(data) => (Answer::Done { data }, true),
            Err(error) => (Answer::Refused { error: format!("{error:#}") }, false),
        }
    }

    pub(super) fn carry_out(&mut self, request: Request, caller: &Caller) -> Result<Value> {
        match request {
            Request::Status => Ok(to_value(self.status())?),
            Request::Rules => Ok(to_value(self.rules())?),
            Request::Block(entry) => self.block(entry, caller),
            Request::Allow(entry) => self.allow(entry, caller),
            Request::Unblock { prefix } => self.remove(Which::Block, prefix, caller),
            Request::Unallow { prefix } => self.remove(Which::Allow, prefix, caller),
            Request::RuleAdd(rule) => self.add_rule(*rule, caller),
            Request::RuleRemove { id } => self.remove_rule(id, caller),
            Request::RuleWithdraw { id } => self.withdraw_rule(id, caller),
            Request::Explain(question) => Ok(to_value(self.explain(&question)?)?),
            Request::ConfirmFeed { name } => self.confirm(&name, caller),
            Request::Incidents { id } => Ok(to_value(self.incidents(id.as_deref())?)?),
            Request::Baseline { class } => Ok(to_value(self.baseline(class.as_deref())?)?),
            Request::BaselineAccept => Ok(to_value(self.accept(caller))?),
            Request::BaselineReset { class } => Ok(to_value(self.forget(class.as_deref(), caller)?)?),
            Request::BaselineExport => Ok(Value::String(serde_json::to_string(&self.brain.export())?)),
            Request::BaselineImport { checkpoint } => Ok(to_value(self.import(&checkpoint, caller)?)?),
            // It is in the audit log, which is all that was asked for.
            Request::Accessed(_) => Ok(Value::Null),
            Request::Ladder => Ok(to_value(self.brain.ladder())?),
            Request::LadderPlan { factors } => Ok(to_value(self.ladder_plan(&factors)?)?),
            Request::LadderSay { word, dry_run } => self.ladder_word(word, dry_run, caller),
            Request::CaptureStart(asked) => self.start_capture(*asked, caller),
            Request::CaptureStop { name } => self.stop_capture(name.as_deref()),
            Request::Alerts => Ok(to_value(self.alerts()?)?),
            Request::AlertTest { sink } => self.test_alert(&sink),
            Request::AlertTested { sink, test } => self.tested_alert(&sink, test),
            Request::AlertSilence(asked) => self.silence(&asked, caller),
            Request::Reload => self.reload(actor(caller)).map(|()| Value::Null),
            Request::Detach => self.detach(caller),
        }
    }

    fn rules(&self) -> Rules {
        Rules {
            block: self.store.listed(Which::Block, &self.lists, &self.clock),
            allow: self.store.listed(Which::Allow, &self.lists, &self.clock),
            feeds: self.feeds.status().cloned().collect(),
            rules: self.rule_list(),
        }
    }

    fn block(&mut self, entry: Entry, caller: &Caller) -> Result<Value> {
        let Entry { prefix, for_s, reason, force, ssh_client } = entry;
        let prefix = prefix.trunc();
        self.guard().check(prefix, ssh_client, force)?;
        let longest = self.config.block.max_duration;
        let lasts = for_s.map_or(self.config.block.default_duration, Duration::from_secs);
        if lasts.is_zero() || lasts > longest {
            let longest = humantime::format_duration(longest);
            bail!(
                "a block lasts between 1s and {longest} (`block.max_duration`): for longer, put {prefix} in a block-list file"
            );
        }
        let who = (reason, caller.name.clone());
        let record = self.store.add(&mut self.lists, &self.clock, Which::Block, prefix, Some(lasts), who)?;
        info!(%prefix, by = %record.by, reason = %record.reason, seconds = lasts.as_secs(), "Blocked.");
        let unknown =
            |error: anyhow::Error| Some(format!("whether an allow entry overrules it is not known: {error:#}"));
        let warning = self.overruled(prefix).unwrap_or_else(unknown);
        Ok(json!({ "prefix": prefix, "for_s": lasts.as_secs(), "record": record, "warning": warning }))
    }

    /// Says which entries of the allow list overrule a block of a prefix, if any does.
    fn overruled(&self, prefix: IpNet) -> Result<Option<String>> {
        let now = self.clock.now();
        let mut allowed = self.lists.entries(Which::Allow)?;
        allowed.retain(|(_, entry)| entry.expires > now);
        let named = |(net, entry): &(IpNet, ListEntry)| {
            let record = self.store.record(Which::Allow, *net).filter(|_| entry.origin != origin::CONFIG);
            (*net, record.map_or("`lists.allow` of the configuration".to_owned(), |record| record.by.clone()))
        };
        Ok(overruled(prefix, &allowed.iter().map(named).collect::<Vec<_>>()))
    }

    fn allow(&mut self, entry: Entry, caller: &Caller) -> Result<Value> {
        let Entry { prefix, for_s, reason, force, ssh_client: _ } = entry;
        let prefix = prefix.trunc();
        if crate::config::too_short(&prefix) && !force {
            bail!("{prefix} is wider than an allow entry may be (/8, /16 for IPv6): use `--force` if you mean it");
        }
        self.refuse_configured(prefix)?;
        let lasts = for_s.map(Duration::from_secs);
        let who = (reason, caller.name.clone());
        let record = self.store.add(&mut self.lists, &self.clock, Which::Allow, prefix, lasts, who)?;
        info!(%prefix, by = %record.by, reason = %record.reason, "Allowed.");
        Ok(json!({ "prefix": prefix, "for_s": for_s, "record": record }))
    }

    /// Refuses to change what the configuration allows: the kernel has one entry for a prefix, and what an operator
    /// makes of it would end.
    ///
    /// # Errors
    /// Where the configuration allows exactly this prefix.
    fn refuse_configured(&self, prefix: IpNet) -> Result<()> {
        if self.config.lists.allow.contains(&prefix) {
            bail!(
                "`lists.allow` of the configuration allows {prefix}, without an end: to change that, edit it there, then `systemctl reload ftagent`"
            );
        }
        Ok(())
    }

    fn remove(&mut self, which: Which, prefix: IpNet, caller: &Caller) -> Result<Value> {
        let prefix = prefix.trunc();
        if which == Which::Allow {
            self.refuse_configured(prefix)?;
        }
        if self.store.remove(&mut self.lists, which, prefix)? {
            info!(%prefix, by = %caller.name, ?which, "Removed.");
            return Ok(json!({ "prefix": prefix }));
        }
        let covering = self.store.covering(which, prefix);
        let what = if which == Which::Block { "blocked" } else { "allowed" };
        match covering.first() {
            Some(wider) => bail!("{prefix} is not {what} by itself but by {wider}: remove that, or add an exception"),
            None => bail!("{prefix} is not {what} by an operator: `ftagent rules` lists what is, feeds included"),
        }
    }

    fn confirm(&mut self, name: &str, caller: &Caller) -> Result<Value> {
        let change = self.feeds.confirm(name)?;
        info!(by = %caller.name, feed = name, entries = change.entries, "A held block list was confirmed.");
        let guard = self.guard();
        let again =
            || format!("`{name}` is confirmed, but not in force: it is tried again at the next look at the feeds");
        self.publish_feeds(&guard).with_context(again)?;
        Ok(json!({ "feed": name }))
    }

    fn detach(&mut self, caller: &Caller) -> Result<Value> {
        warn!(by = %caller.name, "Detaching: nothing is filtered or counted from here on, here or upstream.");
        // What cannot be removed keeps nothing else in force, and what may hang comes last.
        let (removed, stuck) = self.pins.remove_all();
        let upstream = self.clear_upstream();
        let table = self.remove_nftables(&alive).err().map(|error| format!("{error:#}"));
        let here: Vec<String> = stuck.iter().map(|error| crate::chain(error)).chain(table).collect();
        here.iter().for_each(|what| error!("Still there: {what}."));
        Ok(json!({ "removed": removed, "here": here, "upstream": upstream }))
    }

    /// Takes back what is upstream, as an operator does who takes everything back. Returns what is still there.
    fn clear_upstream(&self) -> Vec<String> {
        let known = self.brain.saved_ladder().live();
        match self.brain.say(Word::Withdraw(None), false) {
            Ok(moves) => info!(?moves, "Everything upstream is taken back."),
            Err(why) => info!(%why, "The ladder has nothing to take back."),
        }
        let left = self.brain.take_planes().clear(&self.config.paths.state, CLEARING, &known, &alive);
        for what in &left {
            error!("Still there upstream: {what}.");
        }
        left
    }

    /// Reads the configuration again and takes what can change while running, or nothing.
    pub(super) fn reload(&mut self, by: Actor) -> Result<()> {
        let config = Config::load(self.config_path.as_deref())?;
        let waiting = fixed(&config, &self.config);
        for section in &waiting {
            warn!(section, "A change in this section takes effect at the next start (no packet goes unfiltered).");
        }
        // As a whole, before anything of it is applied: nothing is to see half of it.
        let taken = keeping(config, &self.config);
        let old = std::mem::replace(&mut self.config, taken);
        if let Err(error) = self.apply_reloaded() {
            error!(error = format!("{error:#}"), "Applying the new configuration failed; going back to the old one.");
            self.config = old;
            self.apply_reloaded()?;
            return Err(error);
        }
        self.audit_config(&old, by);
        self.written.reload(&self.config, &waiting);
        self.post.iter().for_each(|post| post.reload(&self.config.alerts));
        self.config_loaded = SystemTime::now();
        Ok(())
    }

    fn apply_reloaded(&mut self) -> Result<()> {
        self.feeds.reload(&self.config);
        self.apply_static_lists()?;
        self.refresh_services()?;
        self.refresh_bounds();
        self.poll_feeds(true)
    }

    /// Makes the kernel's allow list agree with `lists.allow`. `lists.block` travels with the feeds, in maps of
    /// their own.
    pub(super) fn apply_static_lists(&mut self) -> Result<()> {
        let wanted = &self.config.lists.allow;
        for (prefix, entry) in self.lists.entries(Which::Allow)? {
            if entry.origin == origin::CONFIG && !wanted.contains(&prefix) {
                self.lists.remove(Which::Allow, prefix)?;
                self.store.restore(&mut self.lists, &self.clock, Which::Allow, prefix)?;
            }
        }
        for prefix in wanted {
            self.lists.insert(Which::Allow, *prefix, u64::MAX, origin::CONFIG)?;
        }
        Ok(())
    }
}

/// A wait is no reason for systemd to end the daemon.
fn alive() {
    super::notify(&[NotifyState::Watchdog]);
}

/// Says which of these overrule a block of a prefix, each with who allowed it: all of it, or addresses of it.
fn overruled(prefix: IpNet, allowed: &[(IpNet, String)]) -> Option<String> {
    const NAMED: usize = 4;
    if let Some((net, by)) = allowed.iter().find(|(net, _)| net.contains(&prefix)) {
        return Some(format!("nothing of {prefix} is dropped, because {net} is allowed (by {by}), which overrules it"));
    }
    let mut within: Vec<_> = allowed.iter().filter(|(net, _)| prefix.contains(net)).collect();
    within.sort_unstable();
    let named: Vec<String> = within.iter().take(NAMED).map(|(net, by)| format!("{net} (by {by})")).collect();
    let more = if within.len() > NAMED { format!(" and {} more", within.len() - NAMED) } else { String::new() };
    (!within.is_empty())
        .then(|| format!("not dropped, because allowed, which overrules it: {}{more}", named.join(", ")))
}

/// Returns the sections that differ and need a restart.
fn fixed(new: &Config, old: &Config) -> Vec<&'static str> {
    let sections = [
        ("interfaces", new.interfaces == old.interfaces),
        ("paths", new.paths == old.paths),
        ("metrics", new.metrics == old.metrics),
        ("log", new.log == old.log),
        ("sampling", new.sampling == old.sampling),
        ("learning", new.learning == old.learning),
        ("audit", new.audit == old.audit),
        ("remote", new.remote == old.remote),
        ("capture", new.capture == old.capture),
        ("indicators", new.indicators == old.indicators),
        ("bgp", new.bgp == old.bgp),
        ("scrub", new.scrub == old.scrub),
        ("mitigation.plane", new.mitigation.plane == old.mitigation.plane),
    ];
    sections.into_iter().filter(|(_, same)| !same).map(|(section, _)| section).collect()
}

/// Returns a new configuration in which what needs a restart has its old value.
fn keeping(mut new: Config, old: &Config) -> Config {
    new.mitigation.plane = old.mitigation.plane;
    let Config { interfaces, paths, metrics, log, sampling, learning, audit, remote, capture, indicators, .. } =
        old.clone();
    let (bgp, scrub) = (old.bgp.clone(), old.scrub.clone());
    Config {
        interfaces,
        paths,
        metrics,
        log,
        sampling,
        learning,
        audit,
        remote,
        capture,
        indicators,
        bgp,
        scrub,
        ..new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_names_what_overrules_it() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let allowed = |nets: &[&str]| nets.iter().map(|text| (net(text), "root(0)".to_owned())).collect::<Vec<_>>();
        let all = "nothing of 203.0.113.0/24 is dropped, because ";
        let some = "not dropped, because allowed, which overrules it: ";
        let cases = [
            (&[][..], None),
            (&["198.51.100.0/24", "2001:db8::/32"], None),
            (&["203.0.113.7/32", "203.0.113.0/24"], Some((all, "203.0.113.0/24 is allowed (by root(0))"))),
            (&["203.0.0.0/16"], Some((all, "203.0.0.0/16 is allowed (by root(0))"))),
            (
                &["203.0.113.9/32", "203.0.113.7/32"],
                Some((some, "203.0.113.7/32 (by root(0)), 203.0.113.9/32 (by root(0))")),
            ),
            (
                &["203.0.113.1/32", "203.0.113.2/32", "203.0.113.3/32", "203.0.113.4/32", "203.0.113.5/32"],
                Some((some, " and 1 more")),
            ),
        ];
        for (nets, wanted) in cases {
            let said = overruled(net("203.0.113.0/24"), &allowed(nets));
            assert_eq!(said.is_some(), wanted.is_some(), "{nets:?}: {said:?}");
            if let Some(((begins, part), said)) = wanted.zip(said) {
                assert!(said.starts_with(begins) && said.contains(part), "{nets:?}: {said}");
            }
        }
    }

    #[test]
    fn what_needs_a_restart_is_named_and_kept_as_a_whole() {
        let parse = |text: &str| Config::parse(text, "t.toml").unwrap();
        let bgp = |own: &str| format!("[bgp]\ndaemon = \"gobgp\"\nasn = 64500\nown_prefixes = [\"{own}\"]\n");
        let scrub = "[[scrub]]\nname = \"noc\"\nprovider = \"webhook\"\nendpoint = \"https://noc.example.net\"\n\
                     credentials = \"credential:noc\"\nprefixes = [\"203.0.113.0/24\"]\n";
        let old = parse(&bgp("198.51.100.0/24"));
        let text = bgp("203.0.113.0/24")
            + scrub
            + "[indicators]\nenabled = false\n[mitigation]\nplane = \"nftables\"\n[ladder]\nmode = \"dry-run\"\n";
        let new = parse(&text);
        assert_eq!(fixed(&new, &old), ["indicators", "bgp", "scrub", "mitigation.plane"]);
        let taken = keeping(new.clone(), &old);
        assert_eq!(fixed(&taken, &old), Vec::<&str>::new());
        assert_eq!((&taken.bgp, &taken.scrub), (&old.bgp, &old.scrub));
        // What can change while running does, and the audit log has everything as it is written.
        assert_eq!((&taken.ladder, &taken.written), (&new.ladder, &new.written));
        assert!(fixed(&old, &old).is_empty());
    }
}
