//! An HTTP server on loopback that writes down what it is asked, and answers as it is told: what tests, the demo and
//! the benchmarks send alerts to, and what stand-ins of providers are made of.

use std::{
    fmt,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike as _},
};
use serde_json::Value;

/// Time between two looks whether to stop.
const PAUSE: Duration = Duration::from_millis(20);
/// Who began to ask and does not go on is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than anybody sends, bytes.
const LONGEST: usize = 1 << 20;

/// What was asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// When all of it was there.
    pub at: Instant,
    /// `GET`, …
    pub method: String,
    /// The path, still escaped, without the query.
    pub path: String,
    /// What stands behind the question mark.
    pub query: String,
    /// Names in small letters, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// Returns the path with the query.
    pub fn target(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) }
    }

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

/// Undoes the escapes of RFC 3986. What is no UTF-8 then is shown as such.
pub fn unescaped(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.split_at_checked(2).filter(|_| first == b'%');
        let byte = digits.and_then(|(digits, _)| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match (byte, digits) {
            (Some(byte), Some((_, behind))) => {
                bytes.push(byte);
                rest = behind;
            }
            _ => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Headers besides the length.
    pub headers: Vec<(String, String)>,
    /// The body; there is none with 204.
    pub body: String,
}

impl Response {
    /// An answer in whatever.
    pub fn new(status: u16, body: &str) -> Self {
        Self { status, headers: Vec::new(), body: body.to_owned() }
    }

    /// An answer in JSON.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, &body.to_string()).with("content-type", "application/json")
    }

    /// An answer with nothing in it.
    pub const fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: String::new() }
    }

    /// With a header more. After one with `connection: close` the line is closed.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    fn closes(&self) -> bool {
        self.headers.iter().any(|(name, value)| name == "connection" && value.eq_ignore_ascii_case("close"))
    }
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// It is answered.
    Send(Response),
    /// The line is cut.
    Reset,
    /// Nothing comes for so long; then the line is closed.
    Stall(Duration),
}

/// Returns an answer without further headers.
pub fn says(status: u16, body: &str) -> Reply {
    Reply::Send(Response::new(status, body))
}

type Answer = dyn Fn(usize, &Request) -> Reply + Send + Sync;

/// What the threads of a server share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    asked: Mutex<Vec<Request>>,
    /// What was no HTTP, and what went wrong here.
    faults: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server. It ends with its scope, and fails the test where somebody sent it what is no HTTP.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({}, {} requests)", self.address, self.count())
    }
}

impl Server {
    /// Starts one on a free port, in the caller's network namespace. `answer` is given the number of the request and
    /// the request.
    ///
    /// # Panics
    /// Where the system has no socket for it.
    pub fn start(answer: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Self {
        let listening = TcpListener::bind("127.0.0.1:0").and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = listening.unwrap_or_else(|error| panic!("no server on loopback: {error}"));
        let shared: Arc<Shared> = Arc::default();
        let (all, answer): (_, Arc<Answer>) = (Arc::clone(&shared), Arc::new(answer));
        let acceptor = thread::spawn(move || {
            accept(&listener, &all.stop, |stream| {
                let (all, answer) = (Arc::clone(&all), Arc::clone(&answer));
                // A line that breaks concerns nobody but who broke it.
                thread::spawn(move || converse(&stream, &all, &*answer));
            });
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what was asked, in order.
    pub fn asked(&self) -> Vec<Request> {
        lock(&self.shared.asked).clone()
    }

    /// Returns how often it was asked.
    pub fn count(&self) -> usize {
        lock(&self.shared.asked).len()
    }

    /// Returns the address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        if let Some(acceptor) = self.acceptor.take() {
            let _ended = acceptor.join();
        }
        let faults = std::mem::take(&mut *lock(&self.shared.faults));
        assert!(faults.is_empty() || thread::panicking(), "{faults:#?}");
    }
}

/// Takes connections until it is told to stop.
pub fn accept(listener: &TcpListener, stop: &AtomicBool, mut each: impl FnMut(TcpStream)) {
    // A limit on receiving is one on accepting, too: socket(7).
    let limit = TimeVal::milliseconds(i64::try_from(PAUSE.as_millis()).unwrap_or(1));
    let limited = setsockopt(listener, sockopt::ReceiveTimeout, &limit);
    assert!(limited.is_ok(), "a listener without a limit never stops: {limited:?}");
    while !stop.load(SeqCst) {
        // What was accepted has the listener's limit.
        if let Ok((stream, _)) = listener.accept()
            && stream.set_read_timeout(Some(PATIENCE)).is_ok()
        {
            each(stream);
        }
    }
}

/// Takes requests of one line, one after the other.
fn converse(stream: &TcpStream, shared: &Shared, answer: &Answer) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while waits(&reader, &shared.stop)? {
        let request = read(&mut reader).inspect_err(|error| {
            if error.kind() == io::ErrorKind::InvalidData {
                lock(&shared.faults).push(error.to_string());
            }
        })?;
        let number = {
            let mut asked = lock(&shared.asked);
            asked.push(request.clone());
            asked.len() - 1
        };
        let Ok(reply) = catch_unwind(AssertUnwindSafe(|| answer(number, &request))) else {
            let what = format!("{} {}: who answers panicked", request.method, request.path);
            lock(&shared.faults).push(what);
            return Ok(());
        };
        match reply {
            Reply::Send(response) => {
                write(stream, &response)?;
                if response.closes() {
                    return Ok(());
                }
            }
            Reply::Reset => return stream.shutdown(Shutdown::Both),
            Reply::Stall(time) => {
                let until = Instant::now() + time;
                while Instant::now() < until && !shared.stop.load(SeqCst) {
                    thread::sleep(PAUSE);
                }
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Waits for another request; returns whether there is one.
fn waits(reader: &BufReader<&TcpStream>, stop: &AtomicBool) -> io::Result<bool> {
    if !reader.buffer().is_empty() {
        return Ok(true);
    }
    let stream = reader.get_ref();
    stream.set_read_timeout(Some(PAUSE))?;
    let found = loop {
        if stop.load(SeqCst) {
            break false;
        }
        match stream.peek(&mut [0]) {
            Ok(length) => break length > 0,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(found)
}

/// Reads a request. What is no HTTP is [`io::ErrorKind::InvalidData`].
fn read(reader: &mut BufReader<&TcpStream>) -> io::Result<Request> {
    let odd = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut line = || {
        let mut line = String::new();
        match reader.read_line(&mut line)? {
            // Cut short: whoever asked is not there any more.
            _ if !line.ends_with('\n') => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            _ => Ok(line.trim_end().to_owned()),
        }
    };
    let first = line()?;
    let words: Vec<&str> = first.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words.as_slice() else { return Err(odd(format!("no request: {first:?}"))) };
    let mut headers = Vec::new();
    loop {
        let header = line()?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').ok_or_else(|| odd(format!("no header: {header:?}")))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut lengths = headers.iter().filter(|(name, _)| name == "content-length").map(|(_, value)| value.parse());
    let length = match (lengths.next(), lengths.next()) {
        (None, _) if headers.iter().any(|(name, _)| name == "transfer-encoding") => None,
        (None, _) => Some(0),
        (Some(Ok(length)), None) => Some(length).filter(|length| *length <= LONGEST),
        _ => None,
    };
    let length = length.ok_or_else(|| odd(format!("a body of which the length is not told: {headers:?}")))?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (method, path, query) = ((*method).to_owned(), path.to_owned(), query.to_owned());
    Ok(Request { at: Instant::now(), method, path, query, headers, body })
}

fn write(mut stream: &TcpStream, response: &Response) -> io::Result<()> {
    let mut text = format!("HTTP/1.1 {} -\r\n", response.status);
    // 204 has no body, and no length either.
    let body = if response.status == 204 { "" } else { response.body.as_str() };
    if response.status != 204 {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in &response.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{text}\r\n{body}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a text over a line of its own, and returns all that comes back.
    fn talk(server: &Server, text: &str) -> String {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = String::new();
        let _until_it_is_cut = stream.read_to_string(&mut all);
        all
    }

    #[test]
    fn a_line_is_kept_until_an_answer_closes_it() {
        let server = Server::start(|number, _| match number {
            0 => Reply::Send(Response::new(200, "one")),
            _ => Reply::Send(Response::empty(204).with("Connection", "close")),
        });
        let twice = "POST /a%20b?c HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi".repeat(3);
        let said = talk(&server, &twice);
        let wanted = "HTTP/1.1 200 -\r\ncontent-length: 3\r\n\r\noneHTTP/1.1 204 -\r\nconnection: close\r\n\r\n";
        assert_eq!(said, wanted);
        let asked = server.asked();
        assert_eq!((asked.len(), asked[1].target().as_str(), asked[1].body.as_slice()), (2, "/a%20b?c", &b"hi"[..]));
        assert_eq!(asked[0].parts(), ["a b"]);
    }

    #[test]
    fn what_is_no_http_fails_whoever_listens_and_what_is_cut_short_does_not() {
        for (text, fails) in [
            ("", false),
            ("POST / HT", false),
            ("POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhi", false),
            ("hello\r\n\r\n", true),
            ("GET / HTTP/1.0\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nno header\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true),
        ] {
            let server = Server::start(|_, _| says(200, ""));
            assert_eq!(talk(&server, text), "", "{text:?}");
            assert_eq!(server.count(), 0, "{text:?}");
            let ended = catch_unwind(AssertUnwindSafe(|| drop(server)));
            assert_eq!(ended.is_err(), fails, "{text:?}");
        }
    }

    #[test]
    fn what_has_ended_does_not_listen() {
        let server = Server::start(|_, _| Reply::Stall(Duration::from_secs(3600)));
        let address = server.address();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        while server.count() == 0 {
            thread::sleep(PAUSE);
        }
        drop(server);
        assert!(TcpStream::connect(address).is_err());
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "who was kept waiting is let go");
    }
}
