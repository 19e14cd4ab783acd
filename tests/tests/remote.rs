//! Copies of what was recorded, to a real S3-compatible store that checks every signature.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use ftagent::{
    config::{Config, Remote as Settings},
    record::audit::{self, AuditLog},
    record::remote::{LEAST_PART, Progress, Remote, STATE, Store, copy_dir, is_copied},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::sync::oneshot;

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// A store with the bucket `evidence`, on loopback.
struct Server {
    address: SocketAddr,
    /// Its end ends the server.
    _stop: oneshot::Sender<()>,
}

impl Server {
    fn start(root: &Path) -> Self {
        fs::create_dir_all(root.join("evidence")).unwrap();
        let mut service = S3ServiceBuilder::new(FileSystem::new(root).unwrap());
        service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = service.build();
        let (stop, mut stopped) = oneshot::channel();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let stream = tokio::select! {
                        accepted = listener.accept() => accepted.unwrap().0,
                        _ = &mut stopped => return,
                    };
                    let service = service.clone();
                    tokio::spawn(async move {
                        let http = Builder::new(TokioExecutor::new());
                        let _hung_up = http.serve_connection(TokioIo::new(stream), service).await;
                    });
                }
            });
        });
        Self { address, _stop: stop }
    }
}

/// A state directory with one incident, a store, and how to reach it.
struct Place {
    dir: TempDir,
    settings: Settings,
}

impl Place {
    fn new(server: &Server) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let credentials = dir.path().join("credentials");
        write_secret(&credentials, &format!("aws_access_key_id = {KEY}\nsecret_access_key=\"{SECRET}\"\n"), 0o600);
        let settings = Settings {
            endpoint: format!("http://{}", server.address),
            bucket: "evidence".into(),
            prefix: "node1/".into(),
            region: "eu-central-1".into(),
            path_style: true,
            credentials,
            ca_file: None,
            part_bytes: LEAST_PART,
        };
        Self { dir, settings }
    }

    fn store(&self) -> Store {
        Store::open(&self.settings).unwrap()
    }

    /// Makes an incident whose capture takes three parts.
    fn incident(&self, id: &str) -> PathBuf {
        let incident = self.dir.path().join("captures").join(id);
        fs::create_dir_all(&incident).unwrap();
        fs::write(incident.join("meta.json"), b"{\"state\":\"closed\"}").unwrap();
        fs::write(incident.join("capture.pcapng.zst"), numbered(2 * LEAST_PART as usize + 12_345)).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", incident.join("link")).unwrap();
        incident
    }
}

fn write_secret(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn numbered(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 7 % 251) as u8).collect()
}

#[test]
fn what_is_over_is_copied_once_and_whole() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(root.path());
    let place = Place::new(&server);
    let (done, open) = (place.incident("20261122T120000Z-1"), place.incident("20261122T120000Z-2"));
    let not_ready = open.clone();
    let ready = Box::new(move |dir: &Path| dir != not_ready);
    let rules = ftagent::config::Audit { append_only: false, ..Config::default().audit };
    let log = AuditLog::start(place.dir.path(), &rules, || {}).unwrap();
    let captures = place.dir.path().join("captures");
    let remote = Remote::spawn(place.settings.clone(), captures, ready, log.clone()).unwrap();
    for _ in 0..600 {
        if is_copied(&done) {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let there = root.path().join("evidence/node1/20261122T120000Z-1");
    for name in ["meta.json", "capture.pcapng.zst"] {
        assert!(fs::read(there.join(name)).unwrap() == fs::read(done.join(name)).unwrap(), "{name}");
    }
    assert!(!there.join("link").exists(), "links lead elsewhere");
    assert!(!there.join(STATE).exists() && !is_copied(&open));
    assert_eq!(fs::metadata(done.join(STATE)).unwrap().permissions().mode() & 0o777, 0o600);
    // What is copied stays so, whatever becomes of the copy.
    fs::remove_dir_all(&there).unwrap();
    remote.look();
    thread::sleep(Duration::from_millis(200));
    assert!(!there.exists());
    let status = remote.status();
    assert_eq!((status.copied, status.waiting, status.trouble), (1, 0, None));
    log.stop();
    let mut reader = audit::read::Reader::new(&audit::dir(place.dir.path()), audit::read::Wanted::default());
    let lines = reader.next(usize::MAX).unwrap().into_iter();
    let told: Vec<_> = lines.map(|(_, line)| (line.action, line.subject)).collect();
    assert_eq!(told, [("capture.copy".to_owned(), "20261122T120000Z-1".to_owned())]);
}

#[test]
fn a_copy_that_broke_goes_on_where_it_was() {
    let root = tempfile::tempdir().unwrap();
    let place = Place::new(&Server::start(root.path()));
    let incident = place.incident("a");
    let file = incident.join("capture.pcapng.zst");
    // The line breaks when the second part is there; the store is another process then.
    let (mut progress, mut saves) = (Progress::default(), 0);
    let server = Server::start(root.path());
    let settings = Settings { endpoint: format!("http://{}", server.address), ..place.settings.clone() };
    let place = Place { settings, ..place };
    let mut breaks = |_: &Progress| {
        saves += 1;
        if saves == 3 { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    };
    assert!(place.store().copy("a/x", &file, &mut progress, &mut breaks).is_err());
    assert_eq!((progress.parts.len(), progress.done), (2, false));
    drop(server);
    let server = Server::start(root.path());
    let settings = Settings { endpoint: format!("http://{}", server.address), ..place.settings.clone() };
    let place = Place { settings, ..place };
    // What is there is not sent again: other bytes in its place do not arrive.
    let whole = fs::read(&file).unwrap();
    let mut other = whole.clone();
    other[..100].fill(255);
    fs::write(&file, &other).unwrap();
    place.store().copy("a/x", &file, &mut progress, &mut |_| Ok(())).unwrap();
    assert!(progress.done && fs::read(root.path().join("evidence/node1/a/x")).unwrap() == whole);
    // A file that has grown is another file.
    other.extend([1, 2, 3]);
    fs::write(&file, &other).unwrap();
    place.store().copy("a/x", &file, &mut progress, &mut |_| Ok(())).unwrap();
    assert!(fs::read(root.path().join("evidence/node1/a/x")).unwrap() == other);
    // An upload that the store has forgotten begins anew.
    let mut lost = Progress { upload: Some("1f2c7e1c-0000-4000-8000-000000000000".into()), done: false, ..progress };
    lost.parts = vec!["\"0\"".into()];
    place.store().copy("a/y", &file, &mut lost, &mut |_| Ok(())).unwrap();
    assert!(fs::read(root.path().join("evidence/node1/a/y")).unwrap() == other);
}

#[test]
fn an_incident_that_went_on_after_it_was_copied_is_copied_as_it_is_then() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(root.path());
    let place = Place::new(&server);
    let incident = place.incident("a");
    fs::write(incident.join("ticks.ftj.zst"), "first").unwrap();
    copy_dir(&place.store(), &incident).unwrap();
    assert!(is_copied(&incident));
    // The daemon is started anew: the packets go on in their file, the rest is set aside.
    fs::create_dir(incident.join("life-1")).unwrap();
    fs::rename(incident.join("ticks.ftj.zst"), incident.join("life-1/ticks.ftj.zst")).unwrap();
    assert!(!is_copied(&incident), "a file is where none was");
    fs::write(incident.join("ticks.ftj.zst"), "again").unwrap();
    let mut capture = fs::read(incident.join("capture.pcapng.zst")).unwrap();
    capture.extend(b"more packets");
    fs::write(incident.join("capture.pcapng.zst"), &capture).unwrap();
    // Of the same length as before: when it was changed tells.
    let meta = incident.join("meta.json");
    fs::write(&meta, "{\"state\":\"CLOSED\"}").unwrap();
    for changed in [&meta, &incident.join("ticks.ftj.zst")] {
        let later = std::time::SystemTime::now() + Duration::from_secs(5);
        fs::File::options().write(true).open(changed).unwrap().set_modified(later).unwrap();
    }
    copy_dir(&place.store(), &incident).unwrap();
    assert!(is_copied(&incident));
    let there = root.path().join("evidence/node1/a");
    for name in ["meta.json", "capture.pcapng.zst", "ticks.ftj.zst", "life-1/ticks.ftj.zst"] {
        assert!(fs::read(there.join(name)).unwrap() == fs::read(incident.join(name)).unwrap(), "{name}");
    }
    fs::File::options().append(true).open(&meta).unwrap().set_len(5).unwrap();
    assert!(!is_copied(&incident), "what changes once more is copied once more");
}

#[test]
fn trouble_is_named_with_its_remedy_and_without_secrets() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(root.path());
    let place = Place::new(&server);
    let incident = place.incident("a");
    let credentials = place.settings.credentials.clone();
    let table: [(&str, &str, u32, &str); 4] = [
        ("wrong", "access_key_id=AKIDEXAMPLE\nsecret_access_key=not-this-one", 0o600, "remote.credentials"),
        ("open to all", "access_key_id=A\nsecret_access_key=b", 0o644, "chmod 600"),
        ("half", "access_key_id=A\n", 0o600, "`secret_access_key = …`"),
        ("empty", "", 0o600, "`access_key_id = …`"),
    ];
    for (case, text, mode, expected) in table {
        write_secret(&credentials, text, mode);
        let result = Store::open(&place.settings).and_then(|store| copy_dir(&store, &incident));
        let told = ftagent::chain(&result.unwrap_err());
        assert!(told.contains(expected), "{case}: {told}");
        assert!(!told.contains("not-this-one"), "{case}: {told}");
    }
    write_secret(&credentials, &format!("access_key_id={KEY}\nsecret_access_key={SECRET}"), 0o600);
    let told = |settings: Settings| {
        let error = Store::open(&settings).and_then(|store| copy_dir(&store, &incident)).unwrap_err();
        ftagent::chain(&error)
    };
    let away = told(Settings { endpoint: "http://127.0.0.1:9".into(), ..place.settings.clone() });
    assert!(away.contains("cannot be reached"), "{away}");
    let odd = told(Settings { endpoint: "nonsense".into(), ..place.settings.clone() });
    assert!(odd.contains("remote.endpoint"), "{odd}");
    assert!(!is_copied(&incident));
}
