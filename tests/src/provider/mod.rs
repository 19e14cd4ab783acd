//! Stand-ins for providers on the Internet: HTTP servers on loopback that hold a client to what is documented
//! (method, path, headers, signature, body), keep state as the provider does, and misbehave when told to.
//!
//! A request that no documented client would make is written down as a violation; a stand-in that goes out of
//! scope with one on its list, or with a fault that nobody met, fails the test.
#![expect(clippy::unwrap_used, reason = "part of the tests, which fail by panicking")]

pub mod cloudflare;
pub mod ovh;
pub mod robot;
pub mod webhook;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::http::{Reply, Request, Response, Server};

/// How to misbehave.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers this, and does nothing.
    Answer(Response),
    /// Answers this, and has done it.
    Done(Response),
    /// Answers with what was asked, credentials and all, as a careless proxy does.
    Echo,
    /// Cuts the line, and does nothing.
    Reset,
    /// Cuts the line, and has done it.
    DoneThenReset,
    /// Says nothing for so long, and does nothing.
    Stall(Duration),
    /// Says nothing for so long, and has done it.
    DoneThenStall(Duration),
}

/// Which request a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The next.
    Any,
    /// The next that would change something.
    Change,
    /// The next with this method.
    Method(&'static str),
}

/// What a provider does with a request.
pub trait Service: Send + 'static {
    /// Answers; an error is what no documented client would have done.
    ///
    /// # Errors
    /// What is wrong with the request.
    fn answer(&mut self, request: &Request) -> Result<Response, String>;

    /// Returns whether a request is meant to change something.
    fn changes(&self, request: &Request) -> bool {
        request.method != "GET"
    }
}

/// A service, and what happened to it.
struct Inner<S> {
    service: S,
    faults: VecDeque<(When, Fault)>,
    /// What every request is answered with, as long as there is something.
    down: Option<Response>,
    /// Written down together with what was done about them: who sees a request here sees what it changed.
    requests: Vec<Request>,
    violations: Vec<String>,
}

/// A stand-in. It ends with its scope.
pub struct StandIn<S: Service> {
    server: Server,
    inner: Arc<Mutex<Inner<S>>>,
}

impl<S: Service> StandIn<S> {
    /// Starts one on a free port.
    pub fn start(service: S) -> Self {
        let (faults, requests, violations) = (VecDeque::new(), Vec::new(), Vec::new());
        let inner = Arc::new(Mutex::new(Inner { service, faults, down: None, requests, violations }));
        let of_server = Arc::clone(&inner);
        let server = Server::start(move |_, request| match lock(&of_server).reply(request) {
            // One request a line, so that no client takes one for cut that was only closed meanwhile.
            Reply::Send(response) => Reply::Send(response.with("connection", "close")),
            other => other,
        });
        Self { server, inner }
    }

    /// Returns where it listens, as `127.0.0.1:40123`.
    pub fn address(&self) -> String {
        self.server.address().to_string()
    }

    /// Makes the next request that `when` means go wrong.
    pub fn fail(&self, when: When, fault: Fault) {
        lock(&self.inner).faults.push_back((when, fault));
    }

    /// Answers everything with this, and does nothing, until it is told otherwise.
    pub fn down(&self, answer: Option<Response>) {
        lock(&self.inner).down = answer;
    }

    /// Looks at, or changes, what the provider has.
    pub fn with<T>(&self, f: impl FnOnce(&mut S) -> T) -> T {
        f(&mut lock(&self.inner).service)
    }

    /// Returns what was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.inner).requests.clone()
    }
}

fn lock<S>(inner: &Mutex<Inner<S>>) -> MutexGuard<'_, Inner<S>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Service> Drop for StandIn<S> {
    fn drop(&mut self) {
        let (violations, faults) = {
            let mut inner = lock(&self.inner);
            (std::mem::take(&mut inner.violations), std::mem::take(&mut inner.faults))
        };
        assert!(violations.is_empty() || thread::panicking(), "{violations:#?}");
        assert!(faults.is_empty() || thread::panicking(), "nobody met {faults:?}");
    }
}

impl<S: Service> Inner<S> {
    /// Does what is asked, or goes wrong as it was told to.
    fn reply(&mut self, request: &Request) -> Reply {
        self.requests.push(request.clone());
        let change = self.service.changes(request);
        let hits = |when: &When| match when {
            When::Any => true,
            When::Change => change,
            When::Method(method) => request.method == *method,
        };
        if let Some(answer) = &self.down {
            return Reply::Send(answer.clone());
        }
        let due = self.faults.iter().position(|(when, _)| hits(when));
        let Some((_, fault)) = due.and_then(|at| self.faults.remove(at)) else {
            return Reply::Send(self.done(request));
        };
        if matches!(fault, Fault::Done(_) | Fault::DoneThenReset | Fault::DoneThenStall(_)) {
            self.done(request);
        }
        match fault {
            Fault::Answer(answer) | Fault::Done(answer) => Reply::Send(answer),
            Fault::Echo => Reply::Send(Response::new(500, &format!("{:?}", request.headers))),
            Fault::Reset | Fault::DoneThenReset => Reply::Reset,
            Fault::Stall(time) | Fault::DoneThenStall(time) => Reply::Stall(time),
        }
    }

    fn done(&mut self, request: &Request) -> Response {
        self.service.answer(request).unwrap_or_else(|violation| {
            self.violations.push(format!("{} {}: {violation}", request.method, request.path));
            Response::new(400, &violation)
        })
    }
}

/// Checks that an object has these keys and no others.
///
/// # Errors
/// What it has instead.
pub fn exactly(value: &Value, keys: &[&str]) -> Result<(), String> {
    let object = value.as_object().ok_or_else(|| format!("{value} is not an object"))?;
    let mut found: Vec<&str> = object.keys().map(String::as_str).collect();
    let mut wanted = keys.to_vec();
    found.sort_unstable();
    wanted.sort_unstable();
    if found == wanted { Ok(()) } else { Err(format!("it has the keys {found:?}, not {wanted:?}")) }
}
