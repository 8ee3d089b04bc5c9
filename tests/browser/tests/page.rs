//! The page as an operator uses it: by the words on it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::driver::{Browser, Element};
use crate::sides::Access;

/// How long something may take that needs no server.
const SOON: Duration = Duration::from_secs(15);

/// How long a run may take to get somewhere.
pub const LONG: Duration = Duration::from_secs(180);

const BACKSPACE: &str = "\u{e003}";

/// Finds an element by its role and its words. Only the open dialog counts, if there is one.
const FIND: &str = r#"
const [role, words] = arguments;
const scope = document.querySelector('dialog[open]') ?? document;
const visible = (element) => element.getClientRects().length > 0;
const all = (selector) => [...scope.querySelectorAll(selector)].filter(visible);
const says = (element) => [element.textContent.trim(), element.getAttribute('aria-label')].includes(words);
if (role === 'press') return all('button, a, summary').find((element) => says(element) && !element.disabled) ?? null;
const label = all('label').find((element) => element.textContent.trim() === words);
return label ? document.getElementById(label.htmlFor) : (all('input, select, textarea').find(says) ?? null);
"#;

pub struct Page {
    pub browser: Browser,
    pub downloads: TempDir,
}

impl Page {
    /// Starts a browser and opens the page.
    pub fn open(address: &str) -> Page {
        let downloads = TempDir::new().unwrap();
        let browser = Browser::start(downloads.path());
        browser.shape(1280, 900, false);
        browser.open(address);
        Page { browser, downloads }
    }

    /// Goes to another screen of the page.
    pub fn go(&self, hash: &str) {
        self.browser
            .run("location.hash = arguments[0]", &[json!(hash)])
            .unwrap();
    }

    /// The visible text.
    pub fn text(&self) -> String {
        let text = self.browser.run("return document.body.innerText", &[]).unwrap();
        text.as_str().unwrap_or_default().to_owned()
    }

    pub fn wait_for(&self, words: &str) {
        self.wait_long_for(words, SOON);
    }

    pub fn wait_long_for(&self, words: &str, limit: Duration) {
        let seen = || self.text().contains(words);
        assert!(until(limit, seen), "no “{words}” on the page:\n{}", self.text());
    }

    pub fn wait_until_gone(&self, words: &str) {
        let gone = || !self.text().contains(words);
        assert!(until(SOON, gone), "still “{words}” on the page:\n{}", self.text());
    }

    /// Presses a button, or follows a link.
    pub fn press(&self, words: &str) {
        self.use_element("press", words, |element| self.browser.click(element).is_ok());
    }

    /// Whether something can be pressed.
    pub fn offers(&self, words: &str) -> bool {
        self.find("press", words).is_some()
    }

    /// Replaces what is in a field, as someone who types.
    pub fn fill(&self, label: &str, text: &str) {
        let typed = if text.is_empty() { BACKSPACE } else { text };
        self.use_element("field", label, |element| {
            let select = self
                .browser
                .run("arguments[0].select()", std::slice::from_ref(&element.0));
            select.is_ok() && self.browser.type_into(element, typed).is_ok()
        });
        assert_eq!(self.value(label), text, "the field {label}");
    }

    /// Turns on a checkbox or a radio button.
    pub fn check(&self, label: &str) {
        self.use_element("field", label, |element| {
            self.is_checked(element) || (self.browser.click(element).is_ok() && self.is_checked(element))
        });
    }

    pub fn uncheck(&self, label: &str) {
        self.use_element("field", label, |element| {
            !self.is_checked(element) || (self.browser.click(element).is_ok() && !self.is_checked(element))
        });
    }

    /// Chooses a file.
    pub fn attach(&self, label: &str, file: &Path) {
        let path = file.to_str().unwrap();
        self.use_element("field", label, |element| self.browser.type_into(element, path).is_ok());
    }

    pub fn value(&self, label: &str) -> String {
        let element = self.find("field", label).unwrap_or_else(|| panic!("no field {label}"));
        let value = self.browser.run("return arguments[0].value", &[element.0]).unwrap();
        value.as_str().unwrap_or_default().to_owned()
    }

    /// Whether the field with this label is checked; `false` if there is none.
    pub fn has_checked(&self, label: &str) -> bool {
        self.find("field", label)
            .is_some_and(|element| self.is_checked(&element))
    }

    /// Whether a text is anywhere in the document or in the values of its fields.
    pub fn contains_anywhere(&self, text: &str) -> bool {
        let script = "const all = document.documentElement.outerHTML + [...document.querySelectorAll('input, textarea')].map((one) => one.value).join();
                      return all.includes(arguments[0]) || JSON.stringify([{ ...localStorage }, { ...sessionStorage }, location.href]).includes(arguments[0])";
        self.browser.run(script, &[json!(text)]).unwrap() == json!(true)
    }

    /// Fills the connection to a set by its host.
    pub fn fill_host(&self, access: &Access) {
        self.check("Host, user and password");
        self.fill("Host and port of the primary", &access.host);
        self.fill("User", &access.user);
        self.fill("Password", &access.password);
        // The servers are on this machine.
        self.uncheck("Use TLS");
    }

    /// Fills the connection to a set by a connection string.
    pub fn fill_uri(&self, uri: &str) {
        self.check("Connection string");
        // Now there is a field with the same words.
        let script = "return document.querySelector('input[id$=-uri]:not([type=radio])')";
        let found = || Element::of(self.browser.run(script, &[]).unwrap());
        assert!(until(SOON, || found().is_some()));
        self.browser.type_into(&found().unwrap(), uri).unwrap();
    }

    /// Checks the screen by the rules of axe-core, for a wide and a narrow screen, in light and dark.
    pub fn assert_accessible(&self, screen: &str) {
        let rules = std::fs::read_to_string(rules()).unwrap();
        self.browser.run(&format!("{rules}\nwindow.axe = axe;"), &[]).unwrap();
        for (width, dark) in [(360, true), (360, false), (1280, true), (1280, false)] {
            self.browser.shape(width, 900, dark);
            // The page draws once for its new width before it is looked at.
            let drawn =
                "return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))";
            self.browser.run(drawn, &[]).unwrap();
            let script = "return window.axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations.map((one) => one.id + ': ' + one.help + ' ' + one.nodes.map((node) => node.html).join(' ')))";
            let found = self.browser.run(script, &[]).unwrap();
            assert_eq!(found, json!([]), "{screen}, {width} wide, dark: {dark}");
            let wide = self
                .browser
                .run("return document.documentElement.scrollWidth - innerWidth", &[])
                .unwrap();
            assert!(wide.as_i64() <= Some(0), "{screen} is {wide} too wide for {width}");
        }
    }

    /// Saves a picture for the README if the environment asks for it: `MONGOFERRY_SCREENSHOTS` is the folder, from
    /// the root of the repository.
    pub fn picture(&self, name: &str, height: u32) {
        let Some(folder) = std::env::var_os("MONGOFERRY_SCREENSHOTS") else {
            return;
        };
        self.browser.shape(1080, height, false);
        self.browser.run("window.scrollTo(0, 0)", &[]).unwrap();
        let drawn = "return new Promise((done) => setTimeout(done, 700))";
        self.browser.run(drawn, &[]).unwrap();
        let picture = base64(&self.browser.picture());
        std::fs::write(root().join(folder).join(format!("{name}.png")), picture).unwrap();
        self.browser.shape(1280, 900, false);
    }

    /// The file that was downloaded, once it is complete.
    pub fn downloaded(&self, ending: &str) -> Vec<u8> {
        let found = || {
            let files = std::fs::read_dir(self.downloads.path()).unwrap();
            let mut files = files.map(|file| file.unwrap().path());
            files.find(|file| file.to_string_lossy().ends_with(ending))
        };
        assert!(until(SOON, || found().is_some()), "no file *{ending} was downloaded");
        std::fs::read(found().unwrap()).unwrap()
    }

    fn find(&self, role: &str, words: &str) -> Option<Element> {
        Element::of(self.browser.run(FIND, &[json!(role), json!(words)]).ok()?)
    }

    /// Finds an element and uses it. The page may draw in between, so both are tried until they succeed.
    fn use_element(&self, role: &str, words: &str, mut attempt: impl FnMut(&Element) -> bool) {
        let done = || self.find(role, words).is_some_and(|element| attempt(&element));
        assert!(until(SOON, done), "cannot {role} “{words}”:\n{}", self.text());
    }

    fn is_checked(&self, element: &Element) -> bool {
        let checked = self
            .browser
            .run("return arguments[0].checked", std::slice::from_ref(&element.0));
        checked.is_ok_and(|checked| checked == Value::Bool(true))
    }
}

/// Waits for a condition, and returns whether it came true in time.
pub fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while !condition() {
        if begin.elapsed() > limit {
            return false;
        }
        sleep(Duration::from_millis(50));
    }
    true
}

/// The rules of accessibility: `MONGOFERRY_AXE` is the script, or else it is fetched once from PyPI.
fn rules() -> PathBuf {
    if let Some(file) = std::env::var_os("MONGOFERRY_AXE") {
        return file.into();
    }
    let folder = root().join("target/axe");
    let file = folder.join("axe_playwright_python/axe.min.js");
    if !file.exists() {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
            .arg(&folder);
        let status = pip.arg("axe-playwright-python==0.1.8").status().unwrap();
        assert!(
            status.success(),
            "axe-core cannot be fetched: set MONGOFERRY_AXE to axe.min.js"
        );
    }
    file
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Decodes base64.
fn base64(text: &str) -> Vec<u8> {
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let letters: Vec<u8> = text.bytes().filter(|letter| *letter != b'=').collect();
    let mut bytes = Vec::with_capacity(letters.len() * 3 / 4);
    for group in letters.chunks(4) {
        let bits = group.iter().enumerate().fold(0_u32, |bits, (index, letter)| {
            bits | u32::from(value(*letter)) << (18 - 6 * index)
        });
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}
