//! Stand-ins for providers on the Internet: HTTP servers on loopback that hold a client to what is documented
//! (method, path, headers, signature, body), keep state as the provider does, and misbehave when told to.
//!
//! A request that no documented client would make is written down as a violation; a stand-in that goes out of
//! scope with one on its list fails the test.
#![expect(clippy::unwrap_used, reason = "part of the tests, which fail by panicking")]

pub mod cloudflare;
pub mod ovh;
pub mod robot;
pub mod webhook;

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, …
    pub method: String,
    /// The path, still escaped, without the query.
    pub path: String,
    /// What stands behind the question mark.
    pub query: String,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// Returns a header; more than one of the same name is none.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let first = found.next();
        if found.next().is_some() { None } else { first }
    }

    /// Returns the parts of the path, unescaped.
    pub fn parts(&self) -> Vec<String> {
        self.path.trim_start_matches('/').split('/').map(unescaped).collect()
    }

    /// Returns the body as JSON.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn json(&self) -> Result<Value, String> {
        serde_json::from_slice(&self.body).map_err(|error| format!("the body is not JSON ({error})"))
    }

    /// Checks that a request without a body has none, and says nothing about one.
    ///
    /// # Errors
    /// What it has.
    pub fn bare(&self) -> Result<(), String> {
        if !self.body.is_empty() || self.header("content-type").is_some() {
            return Err(format!("{} {} has a body or a content type", self.method, self.path));
        }
        Ok(())
    }

    /// Checks the type of the body.
    ///
    /// # Errors
    /// What it is instead.
    pub fn typed(&self, expected: &str) -> Result<(), String> {
        match self.header("content-type") {
            Some(found) if found == expected => Ok(()),
            found => Err(format!("{} {} has the content type {found:?}, not {expected}", self.method, self.path)),
        }
    }
}

/// Undoes the escapes of RFC 3986.
pub fn unescaped(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Headers besides type and length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// An answer in JSON.
    pub fn json(status: u16, body: &Value) -> Self {
        Self { status, headers: Vec::new(), body: body.to_string() }
    }

    /// An answer with nothing in it.
    pub const fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: String::new() }
    }

    /// With a header more.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// How to misbehave.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers this, and does nothing.
    Answer(Answer),
    /// Answers this, and has done it.
    Done(Answer),
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
    fn answer(&mut self, request: &Request) -> Result<Answer, String>;

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
    down: Option<Answer>,
    requests: Vec<Request>,
    violations: Vec<String>,
}

/// A stand-in. It ends with its scope.
pub struct Standin<S: Service> {
    address: SocketAddr,
    inner: Arc<Mutex<Inner<S>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<S: Service> Standin<S> {
    /// Starts one on a free port.
    pub fn start(service: S) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (faults, requests, violations) = (VecDeque::new(), Vec::new(), Vec::new());
        let inner = Arc::new(Mutex::new(Inner { service, faults, down: None, requests, violations }));
        let stop = Arc::new(AtomicBool::new(false));
        let (of_thread, stopped) = (Arc::clone(&inner), Arc::clone(&stop));
        let accept = move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (inner, stopped) = (Arc::clone(&of_thread), Arc::clone(&stopped));
                let Ok(stream) = stream else { continue };
                thread::spawn(move || serve(stream, &inner, &stopped));
            }
        };
        Self { address, inner, stop, thread: Some(thread::spawn(accept)) }
    }

    /// Returns where it listens, as `127.0.0.1:40123`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Makes the next request that `when` means go wrong.
    pub fn fail(&self, when: When, fault: Fault) {
        self.lock().faults.push_back((when, fault));
    }

    /// Answers everything with this, and does nothing, until it is told otherwise.
    pub fn down(&self, answer: Option<Answer>) {
        self.lock().down = answer;
    }

    /// Looks at, or changes, what the provider has.
    pub fn with<T>(&self, f: impl FnOnce(&mut S) -> T) -> T {
        f(&mut self.lock().service)
    }

    /// Returns what was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.lock().requests.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Service> Drop for Standin<S> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Who waits for a connection has to be given one.
        let _woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
        let violations = std::mem::take(&mut self.lock().violations);
        assert!(violations.is_empty() || thread::panicking(), "{violations:#?}");
    }
}

/// Answers one request; the line is closed after it.
fn serve<S: Service>(stream: TcpStream, inner: &Mutex<Inner<S>>, stop: &AtomicBool) {
    let _bounded = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let Some(request) = read(&stream) else { return };
    let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
    inner.requests.push(request.clone());
    let change = inner.service.changes(&request);
    let hits = |when: &When| match when {
        When::Any => true,
        When::Change => change,
        When::Method(method) => request.method == *method,
    };
    let due = inner.faults.iter().position(|(when, _)| hits(when));
    let fault = due.and_then(|at| inner.faults.remove(at)).map(|(_, fault)| fault);
    let fault = inner.down.clone().map(Fault::Answer).or(fault);
    let mut really = || match inner.service.answer(&request) {
        Ok(answer) => answer,
        Err(violation) => {
            inner.violations.push(format!("{} {}: {violation}", request.method, request.path));
            Answer { status: 400, headers: Vec::new(), body: violation }
        }
    };
    let answer = match fault {
        None => really(),
        Some(Fault::Answer(answer)) => answer,
        Some(Fault::Done(answer)) => {
            really();
            answer
        }
        Some(Fault::Echo) => Answer { status: 500, headers: Vec::new(), body: format!("{:?}", request.headers) },
        Some(Fault::Reset) => return,
        Some(Fault::DoneThenReset) => {
            really();
            return;
        }
        Some(Fault::Stall(time)) => {
            drop(inner);
            return stall(time, stop);
        }
        Some(Fault::DoneThenStall(time)) => {
            really();
            drop(inner);
            return stall(time, stop);
        }
    };
    drop(inner);
    write(stream, &answer);
}

fn stall(time: Duration, stop: &AtomicBool) {
    let until = Instant::now() + time;
    while Instant::now() < until && !stop.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(20));
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0).map(|_| line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let header = line()?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0_usize).min(1 << 20);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    Some(Request { method, path: path.to_owned(), query: query.to_owned(), headers, body })
}

fn write(mut stream: TcpStream, answer: &Answer) {
    let mut head = format!("HTTP/1.1 {} -\r\nconnection: close\r\n", answer.status);
    if answer.status != 204 {
        head.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", answer.body.len()));
    }
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    // Who hung up does not want it.
    let _sent = stream.write_all(format!("{head}\r\n{}", answer.body).as_bytes());
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
