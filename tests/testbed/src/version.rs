use std::fmt;

/// A server version that the testbed can start. Those before 4.2 need a binary that the environment names, such as `MONGOD_3_6`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// MongoDB 2.6.12.
    V2_6,
    /// MongoDB 3.0.15.
    V3_0,
    /// MongoDB 3.2.22.
    V3_2,
    /// MongoDB 3.4.21.
    V3_4,
    /// MongoDB 3.6.13.
    V3_6,
    /// MongoDB 4.0.10.
    V4_0,
    /// MongoDB 4.2.6.
    V4_2,
    /// MongoDB 4.4.2.
    V4_4,
    /// MongoDB 5.0.4.
    V5_0,
    /// MongoDB 5.0.32, the last of its series.
    V5_0_32,
    /// MongoDB 6.0.5, the default: it needs nothing but OpenSSL 3 and libcurl, which current systems have.
    #[default]
    V6_0,
    /// MongoDB 6.0.27.
    V6_0_27,
}

impl Version {
    /// Every version whose binary can be fetched, oldest first.
    pub const ALL: [Version; 6] = [
        Version::V4_2,
        Version::V4_4,
        Version::V5_0,
        Version::V5_0_32,
        Version::V6_0,
        Version::V6_0_27,
    ];

    /// The exact release, such as `6.0.5`.
    pub fn release(self) -> &'static str {
        match self {
            Version::V2_6 => "2.6.12",
            Version::V3_0 => "3.0.15",
            Version::V3_2 => "3.2.22",
            Version::V3_4 => "3.4.21",
            Version::V3_6 => "3.6.13",
            Version::V4_0 => "4.0.10",
            Version::V4_2 => "4.2.6",
            Version::V4_4 => "4.4.2",
            Version::V5_0 => "5.0.4",
            Version::V5_0_32 => "5.0.32",
            Version::V6_0 => "6.0.5",
            Version::V6_0_27 => "6.0.27",
        }
    }

    /// The release series, such as `6.0`, which is also the feature compatibility version of a new server.
    pub fn series(self) -> &'static str {
        match self {
            Version::V2_6 => "2.6",
            Version::V3_0 => "3.0",
            Version::V3_2 => "3.2",
            Version::V3_4 => "3.4",
            Version::V3_6 => "3.6",
            Version::V4_0 => "4.0",
            Version::V4_2 => "4.2",
            Version::V4_4 => "4.4",
            Version::V5_0 | Version::V5_0_32 => "5.0",
            Version::V6_0 | Version::V6_0_27 => "6.0",
        }
    }

    /// Whether the server takes commands in an `OP_QUERY` alone.
    pub(crate) fn is_before_3_6(self) -> bool {
        self < Version::V3_6
    }

    /// Whether the server shuts down without a quiesce period, which came with 5.0.
    pub(crate) fn is_before_5_0(self) -> bool {
        self < Version::V5_0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.release())
    }
}
