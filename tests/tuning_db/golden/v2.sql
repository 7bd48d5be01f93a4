PRAGMA application_id=1953842242;
PRAGMA user_version=2;
BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'tuning_db','0001_tables','2026-01-01 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(2,'tuning_db','0002_noise_nearest_quarantine','2026-01-01 00:00:00+00:00');
CREATE TABLE environments (
    id INTEGER PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,  -- of the hard and soft fields
    hard_hash TEXT NOT NULL,
    arch TEXT,  -- the field of that name, where there is one
    device TEXT,  -- likewise
    doc TEXT NOT NULL  -- {"hard": {...}, "soft": {...}}
) STRICT;
INSERT INTO "environments" VALUES(1,'5b4415f3030649e21205139f5613be459178ab3cc9cd595163fbc8a41f9dd75e','26173fba9413fe7dd65f14935decdfd053b3dbf8ec22ecd1cbb2255aebb66954','sm_89','L4','{"hard":{"arch":"sm_89","toolchain":"3.6"},"soft":{"device":"L4","driver":"570"}}');
INSERT INTO "environments" VALUES(2,'cf91165312a152b7eeb370ece7cc5f632b73167e9c9975b777d4fb2ac61adc70','48029cef87070d7834d0581793fa1fde04ea5cdca12d848478378a592b8e19e8','sm_90','H100','{"hard":{"arch":"sm_90","toolchain":"3.6"},"soft":{"device":"H100","driver":null}}');
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
INSERT INTO "meta" VALUES('application','golden');
CREATE TABLE problem_sizes (  -- to find near problems by
    problem_id INTEGER PRIMARY KEY REFERENCES problems (id),
    kind INTEGER NOT NULL,  -- hash of the text columns
    log_size REAL NOT NULL  -- sum of the integer columns' logarithms
) STRICT;
INSERT INTO "problem_sizes" VALUES(1,1132623429840070821,0.0);
INSERT INTO "problem_sizes" VALUES(2,1132623429840070821,6.0);
INSERT INTO "problem_sizes" VALUES(3,297621391269253444,2.80735492205760417405e+00);
CREATE TABLE problems (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE
, "N" INTEGER, "dtype" TEXT) STRICT;
INSERT INTO "problems" VALUES(1,'N=1,dtype=float16',1,'float16');
INSERT INTO "problems" VALUES(2,'N=64,dtype=float16',64,'float16');
INSERT INTO "problems" VALUES(3,'N=7,dtype=float32',7,'float32');
CREATE TABLE quarantine (  -- lines that an import refused
    line_hash TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    line TEXT NOT NULL
) STRICT;
CREATE TABLE runs (
    id TEXT PRIMARY KEY,  -- a UUID
    environment_id INTEGER NOT NULL REFERENCES environments (id),
    origin TEXT NOT NULL,
    info TEXT NOT NULL
) STRICT;
INSERT INTO "runs" VALUES('00000000-0000-4000-8000-000001000002',1,'sweep','{"seconds":1.5}');
INSERT INTO "runs" VALUES('00000000-0000-4000-8000-000001000001',2,'sweep','{"seconds":1.5}');
INSERT INTO "runs" VALUES('00000000-0000-4000-8000-000064000002',1,'sweep','{"seconds":1.5}');
INSERT INTO "runs" VALUES('00000000-0000-4000-8000-000064000001',2,'sweep','{"seconds":1.5}');
INSERT INTO "runs" VALUES('00000000-0000-4000-8000-000000000777',1,'predicted','{}');
CREATE TABLE "trials" (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (id),
    problem_id INTEGER NOT NULL REFERENCES problems (id),
    config_hash TEXT NOT NULL,
    config TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('started', 'ok', 'compiled', 'resources', 'compile', 'launch', 'wrong', 'timeout', 'crash')),
    predicted_us REAL,
    measured_us REAL,  -- the median of the samples
    samples_us TEXT NOT NULL,
    max_err REAL,
    error TEXT,
    detail TEXT NOT NULL,
    checksum TEXT NOT NULL,
    UNIQUE (problem_id, run_id, config_hash)
) STRICT;
INSERT INTO "trials" VALUES(1,'00000000-0000-4000-8000-000001000002',1,'007693462d5e7aaf12c5fdb0720cc3aa694f6fcd7954437c07037868e4b8e72b','{"B":32}','ok',9.0,21.0,'[20.0,22.0,21.0]',1.0e-07,NULL,'{"default":true,"registers":40}','6c6170c84567e1b844c77056e156ae755dd67ff534c93d0573e51327cb10be4f');
INSERT INTO "trials" VALUES(2,'00000000-0000-4000-8000-000001000002',1,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','ok',9.5,16.5,'[16.0,16.5,17.0]',2.0e-07,NULL,'{"log":["\u00b5s",null]}','c15f88a0ca0f30dcd5c943200260b9329d78c6b45a66cd89575962bd4cc46ab1');
INSERT INTO "trials" VALUES(3,'00000000-0000-4000-8000-000001000002',1,'69b0c43003d1924f1ef4876c1c11d301cc06c266531d999efe4d21afa20e1a84','{"B":128}','wrong',NULL,NULL,'[]',0.5,'0.5 > 1e-3','{}','d4964547cbbe6bc8c3fc747c12d8185357a5f9d9a43dc1b8b82dec092fd56721');
INSERT INTO "trials" VALUES(4,'00000000-0000-4000-8000-000001000002',1,'6a0ec437870b42be32efe376cb9ce8b85f5351de0e5baab910c66cd480ad37f6','{"B":256}','resources',NULL,NULL,'[]',NULL,'needs 160 KiB of shared memory','{}','60ffd4de1771585ba4be45041941cd94865ad61b1b8f1df592e832cdb4473609');
INSERT INTO "trials" VALUES(5,'00000000-0000-4000-8000-000001000001',1,'007693462d5e7aaf12c5fdb0720cc3aa694f6fcd7954437c07037868e4b8e72b','{"B":32}','ok',9.0,10.5,'[10.0,11.0,10.5]',1.0e-07,NULL,'{"default":true,"registers":40}','6df7fc356f9dc4bf34d4086e48d8ea6e417d3fe4f94de89ce983eee301952150');
INSERT INTO "trials" VALUES(6,'00000000-0000-4000-8000-000001000001',1,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','ok',9.5,8.25,'[8.0,8.25,8.5]',2.0e-07,NULL,'{"log":["\u00b5s",null]}','b1dff9881cbfb792e0ae9645369005338e108a2fd36f84673c8020bf8ebc3b30');
INSERT INTO "trials" VALUES(7,'00000000-0000-4000-8000-000001000001',1,'69b0c43003d1924f1ef4876c1c11d301cc06c266531d999efe4d21afa20e1a84','{"B":128}','wrong',NULL,NULL,'[]',0.5,'0.5 > 1e-3','{}','7fd241a302390d98d5aaad342d7e51a9fc8999e3ca277ced75371fe3cb21f619');
INSERT INTO "trials" VALUES(8,'00000000-0000-4000-8000-000001000001',1,'6a0ec437870b42be32efe376cb9ce8b85f5351de0e5baab910c66cd480ad37f6','{"B":256}','resources',NULL,NULL,'[]',NULL,'needs 160 KiB of shared memory','{}','abb886feeaf1513790b4a0c11238fdb30bbc267cc60e42d663fe4dc8d722b33a');
INSERT INTO "trials" VALUES(9,'00000000-0000-4000-8000-000064000002',2,'007693462d5e7aaf12c5fdb0720cc3aa694f6fcd7954437c07037868e4b8e72b','{"B":32}','ok',576.0,1344.0,'[1280.0,1408.0,1344.0]',1.0e-07,NULL,'{"default":true,"registers":40}','312b2439e1e9bc8b628460d122b1397ce55a6dc71dfc666074861c0e59d7e63a');
INSERT INTO "trials" VALUES(10,'00000000-0000-4000-8000-000064000002',2,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','ok',608.0,1056.0,'[1024.0,1056.0,1088.0]',2.0e-07,NULL,'{"log":["\u00b5s",null]}','779e22795a75d5d0b07d9928f1718a40c9f27290459ebf084a8c0c99b1e7ed81');
INSERT INTO "trials" VALUES(11,'00000000-0000-4000-8000-000064000002',2,'69b0c43003d1924f1ef4876c1c11d301cc06c266531d999efe4d21afa20e1a84','{"B":128}','wrong',NULL,NULL,'[]',0.5,'0.5 > 1e-3','{}','287f7b458914d3ffa2b10324698aa88ea5172c296ceca9e4dd1e44471c7b2522');
INSERT INTO "trials" VALUES(12,'00000000-0000-4000-8000-000064000002',2,'6a0ec437870b42be32efe376cb9ce8b85f5351de0e5baab910c66cd480ad37f6','{"B":256}','resources',NULL,NULL,'[]',NULL,'needs 160 KiB of shared memory','{}','cad505e9d9c0f05a50ad65dc750891bb0e7334d1a4fe709fefc2e1fc5fcc5929');
INSERT INTO "trials" VALUES(13,'00000000-0000-4000-8000-000064000001',2,'007693462d5e7aaf12c5fdb0720cc3aa694f6fcd7954437c07037868e4b8e72b','{"B":32}','ok',576.0,672.0,'[640.0,704.0,672.0]',1.0e-07,NULL,'{"default":true,"registers":40}','708c9d0ef2c11df72c365096d992bc322e5a077206ba84b39d74e14a2063c99f');
INSERT INTO "trials" VALUES(14,'00000000-0000-4000-8000-000064000001',2,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','ok',608.0,528.0,'[512.0,528.0,544.0]',2.0e-07,NULL,'{"log":["\u00b5s",null]}','fc96de62560dbc2ba60c125a446551a3173873a5ca1bc9b491cbb48f197ffe23');
INSERT INTO "trials" VALUES(15,'00000000-0000-4000-8000-000064000001',2,'69b0c43003d1924f1ef4876c1c11d301cc06c266531d999efe4d21afa20e1a84','{"B":128}','wrong',NULL,NULL,'[]',0.5,'0.5 > 1e-3','{}','4c4abf88e69f19e14acf2063a8fd1e2978df27081e4c33dd1b3892f32e56cf29');
INSERT INTO "trials" VALUES(16,'00000000-0000-4000-8000-000064000001',2,'6a0ec437870b42be32efe376cb9ce8b85f5351de0e5baab910c66cd480ad37f6','{"B":256}','resources',NULL,NULL,'[]',NULL,'needs 160 KiB of shared memory','{}','28058874358ec823e975a270213a18c415fc5cd2fd6a43d4ae62b393d3c9cf8b');
INSERT INTO "trials" VALUES(17,'00000000-0000-4000-8000-000000000777',3,'611fba461222a960ae024eefbdf35523078f787a91b5ce3435b658c8fa0ff543','{"B":16}','ok',3.0,NULL,'[]',NULL,NULL,'{}','774e0bdd5258308789cd4b9e15f5975b29c3551425fe6aaf1cff1a73d5744070');
INSERT INTO "trials" VALUES(18,'00000000-0000-4000-8000-000000000777',3,'215cbe166962dd7ebc1ac10f68f2d3cbb4ff03ccd2b087f1bf34fbc343c683a5','{"B":512}','started',NULL,NULL,'[]',NULL,NULL,'{}','da0ae009dae18612b97cade99a42121aabd815200c7cd918f70e724a4799c23a');
CREATE TABLE winners (
    id INTEGER PRIMARY KEY,
    environment_id INTEGER NOT NULL REFERENCES environments (id),
    problem_id INTEGER NOT NULL REFERENCES problems (id),
    config_hash TEXT NOT NULL,
    config TEXT NOT NULL,
    provenance TEXT NOT NULL CHECK (provenance IN ('measured', 'predicted')),
    measured_us REAL,
    predicted_us REAL,
    max_err REAL,
    margin REAL,  -- runner-up / winner - 1
    ties INTEGER NOT NULL,
    noise REAL,  -- median deviation of the samples, over their median
    default_us REAL,  -- of the default configuration
    detail TEXT NOT NULL,
    checksum TEXT NOT NULL,
    UNIQUE (problem_id, environment_id)
) STRICT;
INSERT INTO "winners" VALUES(1,1,1,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','measured',16.5,9.5,2.0e-07,2.72727272727272707086e-01,0,3.03030303030303038713e-02,21.0,'{"log":["\u00b5s",null]}','38cd588d13d97c1a9b1e547d78208c738d1a510802e80b3278fe34d344b99ad1');
INSERT INTO "winners" VALUES(2,2,1,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','measured',8.25,9.5,2.0e-07,2.72727272727272707086e-01,0,3.03030303030303038713e-02,10.5,'{"log":["\u00b5s",null]}','714991d1e62a9390b7400b9c0ca04bcd55579a641e7caf4c98d0af4fab96c54e');
INSERT INTO "winners" VALUES(3,1,2,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','measured',1056.0,608.0,2.0e-07,2.72727272727272707086e-01,0,3.03030303030303038713e-02,1344.0,'{"log":["\u00b5s",null]}','80a7db42cad9b0b70b7b6634f078256c731af1c5a9798832c900a1fddf5ac3c0');
INSERT INTO "winners" VALUES(4,2,2,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','measured',528.0,608.0,2.0e-07,2.72727272727272707086e-01,0,3.03030303030303038713e-02,672.0,'{"log":["\u00b5s",null]}','3a62f3dfe7e719acb70d3e13363b259299532a45d0123ce4fbf0040c14fb04a1');
INSERT INTO "winners" VALUES(5,1,3,'611fba461222a960ae024eefbdf35523078f787a91b5ce3435b658c8fa0ff543','{"B":16}','predicted',NULL,3.0,NULL,NULL,0,NULL,NULL,'{}','f2d36e3497470ed97cb962d4eff5cabc2055f2300715d2d00c4a262942e077d9');
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE TRIGGER finished_trials_are_immutable BEFORE UPDATE ON trials
WHEN old.outcome <> 'started'
BEGIN SELECT RAISE(ABORT, 'a finished trial is never changed'); END;
CREATE INDEX problem_sizes_by_kind ON problem_sizes (kind, log_size);
COMMIT;
