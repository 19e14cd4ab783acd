//! A driver, its provider's stand-in, and a witness.

use std::{
    env, fs, io,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ftagent::{
    act::{
        scrub::{Pace, open, open_at},
        upstream::{Act, Driver, Witness},
    },
    config::{Config, Scrub},
    decide::ladder::{Report, Standing, Step, What},
};
use ftagent_tests::{
    daemon,
    http::{Request, Response},
    provider::{Fault, Service, StandIn, When},
};
use tempfile::TempDir;

use crate::providers;

/// What all stand-ins have in common, for what a rig's step is about.
pub trait Peer {
    fn address(&self) -> String;
    /// How many of what is wanted are there.
    fn there(&self) -> usize;
    /// Somebody makes it, or takes it back.
    fn by_hand(&self, there: bool);
    /// Changes take so many looks.
    fn slow(&self, looks: u32);
    /// So many changes come to nothing.
    fn vain(&self, changes: u32);
    fn fail(&self, when: When, fault: Fault);
    /// Every request fails, until it does not.
    fn down(&self, answer: Option<Response>);
    /// How many requests were meant to change something.
    fn changes(&self) -> usize;
    fn requests(&self) -> Vec<Request>;
}

/// Writes down what it is told; refuses when it is told to.
#[derive(Default)]
pub struct Notes {
    lines: Mutex<Vec<String>>,
    told: Mutex<String>,
    refuses: Mutex<bool>,
}

impl Notes {
    pub fn refuse(&self, refuse: bool) {
        *self.refuses.lock().unwrap() = refuse;
    }

    fn tell(&self, text: &str) {
        self.told.lock().unwrap().push_str(text);
    }
}

impl Witness for Notes {
    fn before(&self, act: &Act) -> Result<(), String> {
        if *self.refuses.lock().unwrap() {
            return Err("the audit log cannot be written".to_owned());
        }
        self.tell(&format!("{act:?}\n"));
        self.lines.lock().unwrap().push(act.verb.to_owned());
        Ok(())
    }

    fn after(&self, _: &Act, result: Result<(), &str>) {
        self.tell(&format!("{result:?}\n"));
        self.lines.lock().unwrap().push(if result.is_ok() { "ok" } else { "failed" }.to_owned());
    }
}

/// What a rig is made of.
pub struct Parts {
    pub peer: Box<dyn Peer>,
    /// The path below the stand-in's address.
    pub below: &'static str,
    /// What the credentials' file has in it.
    pub credentials: String,
    /// The rest of the `[[scrub]]`.
    pub config: String,
    /// What is wanted, as [`providers::what`] reads it.
    pub what: &'static str,
    pub verbs: &'static [&'static str],
    pub secrets: Vec<String>,
}

pub struct Rig {
    pub name: &'static str,
    pub peer: Box<dyn Peer>,
    pub witness: Notes,
    /// What is done, from nothing to nothing, when all is well.
    pub verbs: &'static [&'static str],
    /// What must never be told.
    pub secrets: Vec<String>,
    pub config: Scrub,
    what: What,
    /// The configuration, and what is wanted, as text.
    texts: (String, &'static str),
    driver: Option<Box<dyn Driver>>,
    pace: Pace,
    /// What the driver's clock is ahead of the wall, microseconds.
    ahead: Arc<AtomicU64>,
    dir: TempDir,
}

/// Whatever is waited for comes by then, on a busy machine as well.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a life that is to be killed has its configuration, and what it wants.
const LIFE: &str = "FTAGENT_TEST_LIFE";
const LIFE_WANTS: &str = "FTAGENT_TEST_LIFE_WANTS";

/// In a process that is to be killed, looks once; elsewhere, does nothing.
pub fn life() {
    let Some(dir) = env::var_os(LIFE).map(PathBuf::from) else { return };
    let text = fs::read_to_string(dir.join("config.toml")).unwrap();
    let config = Config::parse(&text, "test").unwrap().scrub.remove(0);
    let what = providers::what(&env::var(LIFE_WANTS).unwrap());
    let (plane, incident, reason) = (config.name.clone(), "i-1".to_owned(), "the uplink is full".to_owned());
    let step = Step { id: 7, plane, what, incident, reason };
    let report = open(&config, &dir).unwrap().reconcile(&[step], &Notes::default());
    panic!("it was not killed: {report:?}");
}

/// Runs a test for every kind of thing that a provider can be asked for, side by side.
pub fn every(test: impl Fn(Rig) + Sync) {
    let test = &test;
    let failed: Vec<&str> = thread::scope(|scope| {
        let runs = providers::ALL.map(|name| (name, scope.spawn(move || test(Rig::of(name, name)))));
        runs.into_iter().filter_map(|(name, run)| run.join().err().map(|_| name)).collect()
    });
    assert!(failed.is_empty(), "failed: {failed:?}");
}

impl Rig {
    /// Makes the rig of a kind of thing; `plane` names it.
    pub fn of(plane: &'static str, kind: &str) -> Self {
        Self::with(plane, providers::parts(kind))
    }

    /// Makes a rig of its parts.
    pub fn with(plane: &'static str, parts: Parts) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let credentials = dir.path().join("credentials");
        daemon::secret(&credentials, &parts.credentials).unwrap();
        let endpoint = format!("http://{}{}", parts.peer.address(), parts.below);
        let text = format!(
            "[[scrub]]\nname = \"{plane}\"\ncredentials = \"{}\"\nendpoint = \"{endpoint}\"\n{}",
            credentials.display(),
            parts.config
        );
        let config = Config::parse(&text, "test").unwrap().scrub.remove(0);
        let pace = Pace::of(&config);
        let mut rig = Self {
            name: plane,
            peer: parts.peer,
            witness: Notes::default(),
            verbs: parts.verbs,
            secrets: parts.secrets,
            config,
            what: providers::what(parts.what),
            texts: (text, parts.what),
            driver: None,
            pace,
            ahead: Arc::default(),
            dir,
        };
        rig.restart();
        rig
    }

    /// Wants something else from now on.
    pub fn about(&mut self, what: &str) -> &mut Self {
        self.what = providers::what(what);
        self
    }

    /// The daemon dies and comes back.
    pub fn restart(&mut self) {
        self.driver = None;
        let (ahead, began) = (Arc::clone(&self.ahead), Instant::now());
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        // No two moments are the same.
        let now = move || unix + began.elapsed() + Duration::from_micros(ahead.fetch_add(1, Ordering::SeqCst));
        self.driver = Some(open_at(&self.config, self.dir.path(), self.pace, Box::new(now)).unwrap());
    }

    /// The daemon, as a process of its own, is killed after the provider has done the first change that it was asked
    /// for, and before the provider says so.
    pub fn life_that_is_killed(&mut self) {
        self.driver = None;
        self.peer.fail(When::Change, Fault::DoneThenStall(PATIENCE));
        fs::write(self.dir.path().join("config.toml"), &self.texts.0).unwrap();
        let before = self.peer.changes();
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "a_daemon_that_is_killed_before_it_hears_yes_finds_it_and_takes_it_back"])
            .env(LIFE, self.dir.path())
            .env(LIFE_WANTS, self.texts.1)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + PATIENCE;
        while self.peer.changes() == before && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        let asked = self.peer.changes() > before;
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(asked, "{}: it was not asked for anything", self.name);
        self.restart();
    }

    /// Time goes on, for the driver.
    pub fn pass(&self, time: Duration) {
        self.ahead.fetch_add(u64::try_from(time.as_micros()).unwrap(), Ordering::SeqCst);
    }

    /// The clock is set right again, from a restart on.
    pub fn set_back(&self) {
        self.ahead.store(0, Ordering::SeqCst);
    }

    /// Time goes on until the driver wants to look again; returns how long that was.
    pub fn rest(&self) -> Duration {
        let time = self.driver.as_ref().unwrap().interval();
        assert!(time <= Duration::from_secs(3600), "{}: it looks once in {time:?}", self.name);
        self.pass(time);
        // What a provider measures by its own clock passes as well.
        thread::sleep(Duration::from_millis(1));
        time
    }

    /// Looks for so long, as often as the driver wants to; returns what was said.
    pub fn for_long(&mut self, wanted: bool, time: Duration) -> Vec<Report> {
        let mut reports = Vec::new();
        let mut passed = Duration::ZERO;
        while passed < time {
            reports.push(self.report(wanted));
            passed += self.rest();
        }
        reports
    }

    fn step(&self, id: u32, what: &What) -> Step {
        Step {
            id,
            plane: self.name.to_owned(),
            what: what.clone(),
            incident: "i-1".to_owned(),
            reason: "the uplink is full".to_owned(),
        }
    }

    /// Looks once, with these things wanted.
    pub fn report_of(&mut self, wanted: &[What]) -> Report {
        let steps: Vec<Step> = wanted.iter().zip(7..).map(|(what, id)| self.step(id, what)).collect();
        let report = self.driver.as_mut().unwrap().reconcile(&steps, &self.witness);
        assert_eq!(
            report.steps.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
            (7..).take(wanted.len()).collect::<Vec<_>>()
        );
        self.witness.tell(&format!("{}\n", serde_json::to_string(&report).unwrap()));
        report
    }

    /// Looks once, with the step wanted or not.
    pub fn report(&mut self, wanted: bool) -> Report {
        let wanted: Vec<What> = wanted.then(|| self.what.clone()).into_iter().collect();
        self.report_of(&wanted)
    }

    /// Returns what the driver found at its start that was not in order.
    pub fn found(&self) -> Option<&str> {
        self.driver.as_ref().unwrap().found()
    }

    /// Looks once, and returns how the step is.
    pub fn look(&mut self, wanted: bool) -> Standing {
        self.report(wanted).steps.first().map(|(_, standing)| standing.clone()).expect("a step that is wanted")
    }

    /// Wants the step, and looks until it is as it should be; returns how it was on the way.
    pub fn history(&mut self, mut done: impl FnMut(&Standing) -> bool) -> Vec<Standing> {
        let until = Instant::now() + PATIENCE;
        let mut history: Vec<Standing> = Vec::new();
        loop {
            let standing = self.look(true);
            let over = done(&standing);
            if history.last() != Some(&standing) {
                history.push(standing);
            }
            if over {
                return history;
            }
            assert!(Instant::now() < until, "{}: it stays {history:?}", self.name);
            self.rest();
        }
    }

    /// As [`Self::history`]; returns how it is in the end.
    pub fn until(&mut self, done: impl FnMut(&Standing) -> bool) -> Standing {
        self.history(done).pop().unwrap()
    }

    /// Wants the step until it is there.
    pub fn until_present(&mut self) {
        self.history(|standing| *standing == Standing::Present);
    }

    /// Wants nothing, until nothing of ours is left.
    pub fn until_gone(&mut self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let report = self.report(false);
            if report.leaving == 0 && report.trouble.is_none() && self.is_forgotten() {
                return;
            }
            assert!(Instant::now() < until, "{}: it stays: {report:?}", self.name);
            self.rest();
            if self.broken() && report.leaving == 0 && self.peer.there() == 0 {
                return;
            }
        }
    }

    /// Returns what was done, and what came of it.
    pub fn acts(&self) -> Vec<String> {
        self.witness.lines.lock().unwrap().clone()
    }

    /// Returns whether every act has a result, and no other act between.
    pub fn acts_are_paired(&self) -> bool {
        let result = |line: &String| line == "ok" || line == "failed";
        self.acts().chunks(2).all(|pair| matches!(pair, [act, end] if !result(act) && result(end)))
    }

    /// Returns all that was ever told to anybody, and the journal.
    pub fn told(&self) -> String {
        let journal = fs::read_to_string(self.journal()).unwrap();
        format!("{}{journal}", self.witness.told.lock().unwrap())
    }

    fn journal(&self) -> std::path::PathBuf {
        self.dir.path().join("scrub").join(format!("{}.json", self.name))
    }

    /// How many entries the journal has; nothing where there is none.
    fn in_journal(&self) -> Option<usize> {
        let text = match fs::read(self.journal()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            // A file is where its directory should be.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory && self.broken() => return None,
            text => text.unwrap(),
        };
        let journal: serde_json::Value = serde_json::from_slice(&text).unwrap();
        Some(journal["entries"].as_array().unwrap().len())
    }

    /// Returns whether nothing is kept in mind. There is no journal only where there was never anything to keep.
    fn is_forgotten(&self) -> bool {
        self.in_journal().map_or_else(|| self.acts().is_empty(), |entries| entries == 0)
    }

    pub fn journal_is_empty(&self) -> bool {
        self.in_journal() == Some(0)
    }

    /// Loses the journal, or damages it.
    pub fn spoil_journal(&self, text: Option<&str>) {
        match text {
            None => fs::remove_file(self.journal()).unwrap(),
            Some(text) => fs::write(self.journal(), text).unwrap(),
        }
    }

    fn broken(&self) -> bool {
        self.dir.path().join("scrub").is_file()
    }

    /// Puts a file where the journal's directory should be, or takes it away.
    pub fn break_journal(&self, broken: bool) {
        let dir = self.dir.path().join("scrub");
        let aside = self.dir.path().join("scrub.aside");
        if broken {
            fs::rename(&dir, &aside).unwrap();
            fs::write(&dir, "").unwrap();
        } else {
            fs::remove_file(&dir).unwrap();
            fs::rename(&aside, &dir).unwrap();
        }
    }

    /// Writes other credentials, and returns those before.
    pub fn swap_credentials(&self, text: &str) -> String {
        let path = self.dir.path().join("credentials");
        let before = fs::read_to_string(&path).unwrap();
        fs::write(&path, text).unwrap();
        before
    }

    /// Returns credentials of the right form, and wrong.
    pub fn wrong_credentials(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("credentials")).unwrap();
        // The last letters of a key may be more bits than it has; those in its middle count.
        let wrong = |line: &str| match line.len() {
            0 => String::new(),
            len => format!(
                "{}{}{}",
                &line[..len - 6],
                if &line[len - 6..len - 5] == "A" { "B" } else { "A" },
                &line[len - 5..]
            ),
        };
        text.lines().map(wrong).collect::<Vec<_>>().join("\n")
    }

    /// Returns why the plane does not take something.
    pub fn refusal(&self, what: &What) -> String {
        self.driver.as_ref().unwrap().takes(what).expect_err("it should be refused")
    }
}

/// A stand-in, and what of it the step is about.
pub struct About<S: Service> {
    pub stand_in: StandIn<S>,
    pub there: fn(&mut S) -> usize,
    pub by_hand: fn(&mut S, bool),
    pub slow: fn(&mut S, u32),
    pub vain: fn(&mut S, u32),
}

impl<S: Service> Peer for std::rc::Rc<About<S>> {
    fn address(&self) -> String {
        self.stand_in.address()
    }

    fn there(&self) -> usize {
        self.stand_in.with(self.there)
    }

    fn by_hand(&self, there: bool) {
        self.stand_in.with(|service| (self.by_hand)(service, there));
    }

    fn slow(&self, looks: u32) {
        self.stand_in.with(|service| (self.slow)(service, looks));
    }

    fn vain(&self, changes: u32) {
        self.stand_in.with(|service| (self.vain)(service, changes));
    }

    fn fail(&self, when: When, fault: Fault) {
        self.stand_in.fail(when, fault);
    }

    fn down(&self, answer: Option<Response>) {
        self.stand_in.down(answer);
    }

    fn changes(&self) -> usize {
        let requests = self.stand_in.requests();
        self.stand_in.with(|service| requests.iter().filter(|request| service.changes(request)).count())
    }

    fn requests(&self) -> Vec<Request> {
        self.stand_in.requests()
    }
}
