//! Mail, to a server that is strict about the order of things (RFC 5321) and about the message (RFC 5322).

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use ftagent_tests::{daemon::wait_for, http::accept, sandbox::skip};

use super::{PATIENCE, Place, hand, incident, over, sink, wait_done};

/// What arrived.
#[derive(Clone, Debug, Default)]
struct Mail {
    from: String,
    to: Vec<String>,
    text: String,
}

impl Mail {
    fn header(&self, name: &str) -> Option<String> {
        let (head, _) = self.text.split_once("\r\n\r\n").unwrap();
        let unfolded = head.replace("\r\n ", " ").replace("\r\n\t", " ");
        let mut found =
            unfolded.split("\r\n").filter_map(|line| line.split_once(": ")).filter(|(known, _)| *known == name);
        let first = found.next().map(|(_, value)| value.to_owned());
        assert!(found.next().is_none(), "{name} is there twice");
        first
    }
}

/// A server; it ends with its scope, and fails the test where a client did what it must not.
struct Server {
    address: SocketAddr,
    desk: Arc<Desk>,
    acceptor: Option<JoinHandle<()>>,
}

/// What the server and its thread share.
#[derive(Default)]
struct Desk {
    stop: AtomicBool,
    mails: Mutex<Vec<Mail>>,
    /// What is answered to DATA, the last first; then all is well.
    answers: Mutex<Vec<&'static str>>,
    violations: Mutex<Vec<String>>,
}

impl Server {
    /// Listens; the first answers to DATA are as told, the last of them first.
    fn start(answers: &[&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let desk = Arc::new(Desk { answers: Mutex::new(answers.to_vec()), ..Desk::default() });
        let of_thread = Arc::clone(&desk);
        let acceptor = thread::spawn(move || {
            accept(&listener, &of_thread.stop, |stream| {
                // A line that breaks concerns nobody but who broke it.
                let _ended = converse(&stream, &of_thread);
            });
        });
        Self { address, desk, acceptor: Some(acceptor) }
    }

    fn mails(&self) -> Vec<Mail> {
        self.desk.mails.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.desk.stop.store(true, Ordering::SeqCst);
        let ended = self.acceptor.take().map(JoinHandle::join);
        if thread::panicking() {
            return;
        }
        assert!(matches!(ended, Some(Ok(()))), "the server panicked");
        let violations = self.desk.violations.lock().unwrap();
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

fn converse(mut stream: &TcpStream, desk: &Desk) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let mut say = |text: &str| stream.write_all(format!("{text}\r\n").as_bytes());
    let must = |so: bool, what: &str| {
        if !so {
            desk.violations.lock().unwrap().push(what.to_owned());
        }
    };
    say("220 mx.example.net ESMTP")?;
    let (mut greeted, mut mail) = (false, Mail::default());
    while let Some(line) = lines.next().transpose()? {
        match line.split([' ', ':']).next().unwrap_or_default().to_uppercase().as_str() {
            "EHLO" => {
                greeted = true;
                say("250-mx.example.net\r\n250 8BITMIME")?;
            }
            "MAIL" => {
                must(greeted && mail.from.is_empty(), "MAIL before EHLO, or twice");
                mail.from = line;
                say("250 ok")?;
            }
            "RCPT" => {
                must(!mail.from.is_empty(), "RCPT before MAIL");
                mail.to.push(line);
                say("250 ok")?;
            }
            "DATA" => {
                must(!mail.to.is_empty(), "DATA before RCPT");
                say("354 go on")?;
                while let Some(line) = lines.next().transpose()?.filter(|line| line != ".") {
                    must(line.len() <= 998, "a line that is longer than lines of a mail may be");
                    mail.text.push_str(line.strip_prefix('.').unwrap_or(&line));
                    mail.text.push_str("\r\n");
                }
                let answer = desk.answers.lock().unwrap().pop().unwrap_or("250 2.0.0 queued as 1");
                say(answer)?;
                if answer.starts_with('2') {
                    desk.mails.lock().unwrap().push(mail);
                }
                mail = Mail::default();
            }
            "QUIT" => return say("221 bye"),
            "NOOP" | "RSET" => say("250 ok")?,
            _ => {
                must(false, &line);
                say("500 5.5.1 what?")?;
            }
        }
    }
    Ok(())
}

fn lines(address: SocketAddr, more: &str) -> String {
    format!(
        "server = \"{address}\"\nfrom = \"ftagent <ftagent@example.net>\"\nto = [\"noc@example.net\", \"Böse <b@example.net>\"]\n{more}"
    )
}

#[test]
fn an_incident_is_a_thread_of_mails() {
    let place = Place::new();
    // The last is the first answer.
    let server = Server::start(&["451 4.3.0 try later", "452 4.2.2 full"]);
    let post = place.post(&sink("email", &lines(server.address, "tls = \"none\"")));
    hand(&post, incident("20260801T120000Z-1"));
    wait_done(&post, "delivered", 1);
    hand(&post, over("20260801T120000Z-1"));
    wait_done(&post, "delivered", 2);
    let mails = server.mails();
    assert_eq!(mails.len(), 2);
    for mail in &mails {
        assert!(mail.from.contains("<ftagent@example.net>") && mail.to.len() == 2, "{mail:?}");
        assert_eq!(mail.header("Auto-Submitted").as_deref(), Some("auto-generated"));
        assert_eq!(mail.header("X-Auto-Response-Suppress").as_deref(), Some("All"));
        assert!(mail.header("Date").is_some() && mail.header("Content-Type").unwrap().starts_with("text/plain"));
        assert!(mail.text.is_ascii() || mail.header("Content-Transfer-Encoding").as_deref() == Some("8bit"));
    }
    let root = mails[0].header("Message-ID").unwrap();
    assert_eq!(root, "<20260801T120000Z-1@edge1.ftagent>");
    assert!(mails[0].header("In-Reply-To").is_none());
    assert_eq!(mails[1].header("In-Reply-To").as_deref(), Some(root.as_str()));
    assert_eq!(mails[1].header("References").as_deref(), Some(root.as_str()));
    assert_ne!(mails[1].header("Message-ID").unwrap(), root);
    assert!(mails[0].header("Subject").unwrap().starts_with("ATTACK on edge1: syn_flood, high"));
    assert_eq!(post.status().sinks[0].failures, 2);
}

#[test]
fn a_mail_that_is_refused_is_not_tried_again() {
    let place = Place::new();
    let server = Server::start(&["552 5.3.4 message too big"]);
    let post = place.post(&sink("email", &lines(server.address, "tls = \"none\"")));
    hand(&post, incident("i"));
    wait_done(&post, "refused", 1);
    hand(&post, over("i"));
    wait_done(&post, "delivered", 1);
    assert_eq!(server.mails().len(), 1);
}

#[test]
fn where_encryption_is_wanted_and_not_offered_nothing_is_sent() {
    let place = Place::new();
    let server = Server::start(&[]);
    let post = place.post(&sink("email", &lines(server.address, "tls = \"starttls\"")));
    hand(&post, incident("i"));
    let trouble = wait_for("trouble", PATIENCE, || post.status().sinks[0].trouble.clone()).unwrap();
    assert!(trouble.contains("STARTTLS"), "{trouble}");
    assert!(server.mails().is_empty());
}

/// A server with TLS and a login, in a few lines of Python: no crate of ours speaks the server's side.
const TLS_SERVER: &str = r#"
import base64, socket, ssl, sys
cert, key, mode = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    raw, _ = listener.accept()
    try:
        line = context.wrap_socket(raw, server_side=True) if mode == "implicit" else raw
        secure, known, file = mode == "implicit", False, line.makefile("rb")
        def say(text):
            line.sendall(text.encode() + b"\r\n")
        say("220 mx ESMTP")
        while True:
            words = file.readline().decode().split()
            if not words:
                break
            verb = words[0].upper()
            if verb == "EHLO":
                say("250-mx\r\n250 " + ("AUTH PLAIN LOGIN" if secure else "STARTTLS"))
            elif verb == "STARTTLS":
                say("220 go")
                line = context.wrap_socket(raw, server_side=True)
                secure, file = True, line.makefile("rb")
            elif verb == "AUTH":
                known = secure and base64.b64decode(words[2]) == b"\0ftagent\0xyzzySecret"
                say("235 ok" if known else "535 5.7.8 no")
            elif verb == "DATA":
                say("354 go")
                while file.readline() != b".\r\n":
                    pass
                print("mail", known, flush=True)
                say("250 ok")
            elif verb == "QUIT":
                say("221 bye")
                break
            else:
                say("250 ok" if known else "530 5.7.0 log in first")
    except (OSError, ssl.SSLError) as error:
        print("error", error, flush=True)
"#;

/// A process that ends with its scope.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Neither fails but for a process that was reaped before, which is as wanted.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn encryption_and_login() {
    let place = Place::new();
    let path = |name: &str| place.state().join(name).display().to_string();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        // It is its own authority and the server's certificate at once.
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &key, "-out", &cert])
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        return skip("mail over TLS", "there is no openssl to make a certificate with");
    }
    let password = place.secret("password", "xyzzySecret\n");
    for mode in ["starttls", "implicit"] {
        let server = Command::new("python3")
            .args(["-c", TLS_SERVER, &cert, &key, mode])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut server) = server.map(Running) else {
            return skip("mail over TLS", "there is no python3 to serve with");
        };
        let mut said = BufReader::new(server.0.stdout.take().unwrap()).lines();
        let port = said.next().unwrap().unwrap();
        let more = format!(
            "tls = {mode:?}\nuser = \"ftagent\"\nsecret = {password:?}\nca_file = {cert:?}\n\
             server = \"localhost:{port}\"\nfrom = \"ftagent@example.net\"\nto = [\"noc@example.net\"]"
        );
        let post = place.post(&sink("email", &more));
        hand(&post, incident(mode));
        let done = || {
            let sink = post.status().sinks.first().cloned()?;
            (sink.results["delivered"] == 1).then_some(())
        };
        let done = wait_for("a mail", PATIENCE, done).map_err(|error| format!("{error}: {:?}", post.status()));
        let heard = done.as_ref().ok().and_then(|()| said.next()).map(Result::unwrap);
        // Who has no certificate for that name is not spoken to.
        let wrong = more.replace(&format!("ca_file = {cert:?}\n"), "");
        let refused = ftagent::alert::try_once(&place.config(&sink("email", &wrong)).alerts, "s").unwrap();
        post.stop();
        done.unwrap();
        assert_eq!(heard.as_deref(), Some("mail True"), "{mode}");
        assert!(!refused.arrived, "{mode}: {refused:?}");
    }
}
