//! A small client of WebDriver: just what these tests need.
//!
//! Its calls block. The test's own thread waits for the browser, while the tasks of the runtime go on.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// What identifies an element in WebDriver.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How long a single command may take. The slowest ones run the rules of accessibility.
const COMMAND: Duration = Duration::from_secs(60);

/// A browser with its driver. Both end with it.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
}

/// An element of the page.
#[derive(Clone, Debug)]
pub struct Element(pub Value);

/// The driver's error, such as `stale element reference`.
pub struct Failure(String);

impl std::fmt::Debug for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Browser {
    /// Starts a browser without a window on the screen. Downloads go to `downloads`.
    pub fn start(downloads: &std::path::Path) -> Browser {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver: install the packages chromium and chromium-driver");
        let output = BufReader::new(driver.stdout.take().unwrap());
        let port = output
            .lines()
            .map_while(std::io::Result::ok)
            .find_map(|line| {
                line.split("successfully on port ")
                    .nth(1)?
                    .trim_end_matches('.')
                    .parse()
                    .ok()
            })
            .expect("the port of chromedriver");
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {
                "args": arguments,
                "prefs": { "download.default_directory": downloads, "download.prompt_for_download": false },
            },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let mut browser = Browser {
            driver,
            port,
            session: String::new(),
        };
        let session = browser.command("POST", "/session", &capabilities).unwrap();
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        browser
    }

    pub fn open(&self, address: &str) {
        self.post("url", &json!({ "url": address })).unwrap();
    }

    /// Runs JavaScript in the page, and returns its result. It may be a promise.
    pub fn run(&self, script: &str, arguments: &[Value]) -> Result<Value> {
        self.post("execute/sync", &json!({ "script": script, "args": arguments }))
    }

    pub fn click(&self, element: &Element) -> Result<()> {
        self.post(&format!("element/{}/click", element.id()), &json!({}))
            .map(drop)
    }

    /// Types text into an element. A path given to a file input chooses that file.
    pub fn type_into(&self, element: &Element, text: &str) -> Result<()> {
        self.post(&format!("element/{}/value", element.id()), &json!({ "text": text }))
            .map(drop)
    }

    /// Presses keys one after the other, wherever the focus is.
    pub fn keys(&self, keys: &str) {
        let presses = keys.chars().flat_map(|key| {
            [
                json!({ "type": "keyDown", "value": key }),
                json!({ "type": "keyUp", "value": key }),
            ]
        });
        let presses: Vec<Value> = presses.collect();
        let keyboard = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": presses }] });
        self.post("actions", &keyboard).unwrap();
    }

    /// Opens another tab, and continues there.
    pub fn new_tab(&self) -> String {
        let tab = self.post("window/new", &json!({ "type": "tab" })).unwrap();
        let tab = tab["handle"].as_str().unwrap().to_owned();
        self.switch_to(&tab);
        tab
    }

    pub fn tab(&self) -> String {
        self.get("window").unwrap().as_str().unwrap().to_owned()
    }

    pub fn switch_to(&self, tab: &str) {
        self.post("window", &json!({ "handle": tab })).unwrap();
    }

    /// Makes the page so wide and so high, in light or dark colours.
    pub fn shape(&self, width: u32, height: u32, dark: bool) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", &media);
    }

    /// A picture of the visible page, as PNG in base64.
    pub fn picture(&self) -> String {
        self.get("screenshot").unwrap().as_str().unwrap().to_owned()
    }

    /// What the browser complained about since the last call.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.post("se/log", &json!({ "type": "browser" })).unwrap();
        let messages = log.as_array().unwrap().iter();
        messages
            .map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }

    fn devtools(&self, command: &str, parameters: &Value) {
        self.post("goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
            .unwrap();
    }

    fn get(&self, path: &str) -> Result<Value> {
        self.command("GET", &format!("/session/{}/{path}", self.session), &Value::Null)
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.command("POST", &format!("/session/{}/{path}", self.session), body)
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let broken = |error: std::io::Error| Failure(format!("{method} {path}: {error}"));
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(broken)?;
        stream.set_read_timeout(Some(COMMAND)).map_err(broken)?;
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (length, port) = (body.len(), self.port);
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).map_err(broken)?;
        let content = answer(BufReader::new(stream)).map_err(broken)?;
        let answer: Value = serde_json::from_slice(&content).map_err(|error| Failure(error.to_string()))?;
        let value = &answer["value"];
        match value["error"].as_str() {
            Some(error) => Err(Failure(format!(
                "{error}: {}",
                value["message"].as_str().unwrap_or_default()
            ))),
            None => Ok(value.clone()),
        }
    }
}

/// Reads the body of an answer.
fn answer(mut stream: impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or_default();
        }
    }
    let mut content = vec![0; length];
    stream.read_exact(&mut content)?;
    Ok(content)
}

impl Element {
    /// Takes the element that a script has returned; `None` for null.
    pub fn of(value: Value) -> Option<Element> {
        value.get(ELEMENT).is_some().then_some(Element(value))
    }

    fn id(&self) -> &str {
        self.0[ELEMENT].as_str().unwrap()
    }
}

impl Drop for Browser {
    /// The browser ends only with its session.
    fn drop(&mut self) {
        let _ = self.command("DELETE", &format!("/session/{}", self.session), &Value::Null);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
