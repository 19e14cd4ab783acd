//! Files of patterns: what is wrong is told with its place, and what changes is read again.

use std::{fs, path::Path};

use super::super::*;

const GOOD: &str = r#"
[[pattern]]
name = "house_tool"
kind = "tool"
tool = "the house's"
about = "what our test tool sends"
source = "the wiki"
confidence = 1
match = "udp dport 9999"
payload = [{ at = 0, text = "HOUSE" }]
"#;

/// Line and column of a problem, and a part of what is said of it.
type Place<'a> = (usize, usize, &'a str);

/// Each case: a file, then line and column of each problem, and a part of what is said of it.
#[test]
fn every_problem_is_told_with_line_and_column() {
    let cases: [(String, &[Place]); 15] = [
        ("[[pattern]\nname = 1".to_owned(), &[(1, 11, "")]),
        ("patern = 1".to_owned(), &[(1, 1, "`patern` is not known here")]),
        ("pattern = 3".to_owned(), &[(1, 1, "`pattern` is no table")]),
        ("disable = [\"a b\", 3]".to_owned(), &[(1, 12, "`a b` is no name"), (1, 19, "this is no name")]),
        (
            "[[pattern]]\nname = \"x\"".to_owned(),
            &[
                (1, 1, "no `kind`"),
                (1, 1, "no `about`"),
                (1, 1, "no `source`"),
                (1, 1, "no `confidence`"),
                (1, 1, "matches every packet"),
            ],
        ),
        (format!("{GOOD}colour = 3\n"), &[(11, 1, "there is no key `colour`")]),
        (GOOD.replace("source", "sauce"), &[(2, 1, "no `source`"), (7, 1, "there is no key `sauce`")]),
        (GOOD.replace("\"tool\"", "\"toll\""), &[(4, 8, "there is no kind `toll`")]),
        (GOOD.replace("house_tool", "House Tool"), &[(3, 8, "`House Tool` is no name")]),
        (GOOD.replace("= 1", "= 1.5"), &[(8, 14, "no number from 0 to 1")]),
        (GOOD.replace("dport 9999", "dprt 9999"), &[(9, 14, "`dprt`")]),
        (GOOD.replace("at = 0", "at = -1"), &[(10, 19, "`at` is no offset")]),
        (GOOD.replace("text = \"HOUSE\"", "hex = \"ff 0g\""), &[(10, 33, "not hexadecimal here")]),
        (
            format!("{GOOD}where = [\"ip.id == 1\", \"tcp.seq == ip.dts\", 3]\n"),
            &[(11, 36, "there is no field `ip.dts`"), (11, 45, "this is no condition")],
        ),
        (
            GOOD.replace("at = 0, text = \"HOUSE\"", "within = \"9-4\", text = \"\", mask = \"zz\""),
            &[(10, 12, "0 bytes"), (10, 23, "`9-4` is no range"), (10, 49, "not hexadecimal")],
        ),
    ];
    for (text, wanted) in cases {
        let problems = read(&text, "x.toml", &Origin::Shipped).expect_err(&text);
        let told = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert_eq!(problems.len(), wanted.len(), "{text}\n{told}");
        for (problem, (line, column, what)) in problems.iter().zip(wanted) {
            assert_eq!((problem.line, problem.column), (*line, *column), "{text}\n{told}");
            assert!(problem.to_string().contains(what) && !problem.remedy.is_empty(), "{told}");
            assert!(problem.to_string().starts_with(&format!("x.toml:{line}:{column}: ")));
        }
    }
}

fn has(library: &Library, name: &str) -> bool {
    library.patterns().iter().any(|pattern| pattern.name == name)
}

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

#[test]
fn files_are_read_again_when_they_change_and_broken_ones_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let paths = [dir.path().to_owned(), dir.path().join("not there")];
    let (mut watched, problems) = Watched::open(&paths);
    assert!(problems.is_empty() && has(watched.library(), "mirai_scan"));
    let shipped = watched.library().patterns().len();
    assert!(matches!(watched.look(), Looked::Same));

    write(dir.path(), "house.toml", GOOD);
    write(dir.path(), ".house.toml.swp.toml", "nonsense");
    write(dir.path(), "README", "nonsense");
    let Looked::New(library) = watched.look() else { panic!("a file came") };
    assert!(has(&library, "house_tool") && library.patterns().len() == shipped + 1);
    assert!(matches!(watched.look(), Looked::Same));

    write(dir.path(), "house.toml", &GOOD.replace("9999", "99999"));
    let Looked::Broken(problems) = watched.look() else { panic!("a file broke") };
    assert_eq!(problems.len(), 1);
    assert!(problems[0].to_string().contains("house.toml:9:"), "{}", problems[0]);
    assert!(has(watched.library(), "house_tool"), "what was before is in force");
    assert!(matches!(watched.look(), Looked::Same), "told once");

    write(dir.path(), "house.toml", "disable = [\"mirai_scan\"]\n");
    let Looked::New(library) = watched.look() else { panic!("a file was mended") };
    assert!(!has(&library, "house_tool") && !has(&library, "mirai_scan"));

    fs::remove_file(dir.path().join("house.toml")).unwrap();
    let Looked::New(library) = watched.look() else { panic!("a file went") };
    assert_eq!(library.patterns().len(), shipped);
}

#[test]
fn an_operators_pattern_replaces_a_shipped_one_and_is_custom_in_metrics() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "10.toml", &GOOD.replace("house_tool", "mirai_scan"));
    write(dir.path(), "20.toml", &GOOD.replace("9999", "8888"));
    let (watched, problems) = Watched::open(&[dir.path().to_owned()]);
    assert!(problems.is_empty());
    let library = watched.library();
    let number = library.patterns().iter().position(|pattern| pattern.name == "mirai_scan").unwrap();
    assert_eq!(library.patterns()[number].tool, "the house's");
    assert_eq!(library.label(number as u16), CUSTOM);
    assert!(
        (0..library.patterns().len()).all(|i| Library::labels().iter().any(|label| label == library.label(i as u16)))
    );
}

#[test]
fn names_twice_and_names_that_are_not_there_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    let cases = [
        (format!("{GOOD}{GOOD}"), 1, "twice"),
        ("disable = [\"mirai_scan\", \"mirai_scn\"]".to_owned(), 1, "no pattern `mirai_scn`"),
        ("\u{feff}disable = []".to_owned(), 0, ""),
        (String::new(), 0, ""),
    ];
    for (text, count, what) in cases {
        fs::write(&path, &text).unwrap();
        let problems = check(&path).err().unwrap_or_default();
        assert_eq!(problems.len(), count, "{text}: {problems:?}");
        assert!(problems.iter().all(|problem| problem.what.contains(what) && problem.line >= 1));
    }
    fs::write(&path, b"name = \"\xff\"").unwrap();
    let problems = check(&path).unwrap_err();
    assert_eq!((problems[0].line, problems[0].column), (1, 9), "{}", problems[0]);
    assert!(check(Path::new("/nonexistent.toml")).is_err());
    assert!(check(dir.path()).is_err());
}
