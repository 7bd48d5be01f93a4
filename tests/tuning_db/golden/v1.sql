PRAGMA application_id=1953842242;
PRAGMA user_version=1;
BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'tuning_db','0001_tables','2026-01-01 00:00:00+00:00');
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
CREATE TABLE problems (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE
, "N" INTEGER, "dtype" TEXT) STRICT;
INSERT INTO "problems" VALUES(1,'N=1,dtype=float16',1,'float16');
INSERT INTO "problems" VALUES(2,'N=64,dtype=float16',64,'float16');
INSERT INTO "problems" VALUES(3,'N=7,dtype=float32',7,'float32');
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
CREATE TABLE trials (
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
    UNIQUE (run_id, problem_id, config_hash)
) STRICT;
INSERT INTO "trials" VALUES(1,'00000000-0000-4000-8000-000001000002',1,'007693462d5e7aaf12c5fdb0720cc3aa694f6fcd7954437c07037868e4b8e72b','{"B":32}','ok',9.0,21.0,'[20.0,22.0,21.0]',1.0e-07,NULL,'{"default":true,"registers":40}','f895298ff872429275ea3efaf8b5e6e75dbe41b2dae4d4e88a2515842d47b242');
INSERT INTO "trials" VALUES(2,'00000000-0000-4000-8000-000001000002',1,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','ok',9.5,16.5,'[16.0,16.5,17.0]',2.0e-07,NULL,'{"log":["\u00b5s",null]}','7bcaee93d65f891eabee3510c07694c8725fdb205dac607b0baea3815226b2a5');
INSERT INTO "trials" VALUES(3,'00000000-0000-4000-8000-000001000002',1,'69b0c43003d1924f1ef4876c1c11d301cc06c266531d999efe4d21afa20e1a84','{"B":128}','wrong',NULL,NULL,'[]',0.5,'0.5 > 1e-3','{}','71075476b4a296211d6e25cf5ba4cd6b71fd30adb0804d98cfda3861d147cb14');
INSERT INTO "trials" VALUES(4,'00000000-0000-4000-8000-000001000002',1,'6a0ec437870b42be32efe376cb9ce8b85f5351de0e5baab910c66cd480ad37f6','{"B":256}','resources',NULL,NULL,'[]',NULL,'needs 160 KiB of shared memory','{}','e8b5f4a29b59f91010b89cd2343ce48166f6eae3dce770baec19aada716b6706');
INSERT INTO "trials" VALUES(5,'00000000-0000-4000-8000-000001000001',1,'007693462d5e7aaf12c5fdb0720cc3aa694f6fcd7954437c07037868e4b8e72b','{"B":32}','ok',9.0,10.5,'[10.0,11.0,10.5]',1.0e-07,NULL,'{"default":true,"registers":40}','23610d797b2d93759c575405a6ed07e1fb426ede4a5f78793c093d2f35874fce');
INSERT INTO "trials" VALUES(6,'00000000-0000-4000-8000-000001000001',1,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','ok',9.5,8.25,'[8.0,8.25,8.5]',2.0e-07,NULL,'{"log":["\u00b5s",null]}','e3c2d4adf46c39ccb10133ab740687d2e13fe18cad908e6ac7101b71fa8ecde2');
INSERT INTO "trials" VALUES(7,'00000000-0000-4000-8000-000001000001',1,'69b0c43003d1924f1ef4876c1c11d301cc06c266531d999efe4d21afa20e1a84','{"B":128}','wrong',NULL,NULL,'[]',0.5,'0.5 > 1e-3','{}','ec5bb718271cfa76c9ef83a651c1814508f21d25dc57ccf1fb0629ca874f8ac4');
INSERT INTO "trials" VALUES(8,'00000000-0000-4000-8000-000001000001',1,'6a0ec437870b42be32efe376cb9ce8b85f5351de0e5baab910c66cd480ad37f6','{"B":256}','resources',NULL,NULL,'[]',NULL,'needs 160 KiB of shared memory','{}','f24b70441425e559afc502e66512c90427edcbac04f90791a6868757836667c5');
INSERT INTO "trials" VALUES(9,'00000000-0000-4000-8000-000064000002',2,'007693462d5e7aaf12c5fdb0720cc3aa694f6fcd7954437c07037868e4b8e72b','{"B":32}','ok',576.0,1344.0,'[1280.0,1408.0,1344.0]',1.0e-07,NULL,'{"default":true,"registers":40}','112cdec1cfe4f4a312ce48a7ce9768bd231cafa71e918b0ea6035a8069e2a639');
INSERT INTO "trials" VALUES(10,'00000000-0000-4000-8000-000064000002',2,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','ok',608.0,1056.0,'[1024.0,1056.0,1088.0]',2.0e-07,NULL,'{"log":["\u00b5s",null]}','ca7a19cc0c0449ef53677fb9e4df0fd17e6111d14403f12c884b00dfe762d233');
INSERT INTO "trials" VALUES(11,'00000000-0000-4000-8000-000064000002',2,'69b0c43003d1924f1ef4876c1c11d301cc06c266531d999efe4d21afa20e1a84','{"B":128}','wrong',NULL,NULL,'[]',0.5,'0.5 > 1e-3','{}','bbb80cab0d251d371ccb0e1e79a51ce9754d467b6d7174e297ee8ce86d85d28a');
INSERT INTO "trials" VALUES(12,'00000000-0000-4000-8000-000064000002',2,'6a0ec437870b42be32efe376cb9ce8b85f5351de0e5baab910c66cd480ad37f6','{"B":256}','resources',NULL,NULL,'[]',NULL,'needs 160 KiB of shared memory','{}','e36b6370087074a05379624a9860eea049c78ac0541709c3cb8a85abdcc48969');
INSERT INTO "trials" VALUES(13,'00000000-0000-4000-8000-000064000001',2,'007693462d5e7aaf12c5fdb0720cc3aa694f6fcd7954437c07037868e4b8e72b','{"B":32}','ok',576.0,672.0,'[640.0,704.0,672.0]',1.0e-07,NULL,'{"default":true,"registers":40}','e052190d9876b0d1ee1da44a685ebf5df8bc72c238c50945f0b00a837b6c35fa');
INSERT INTO "trials" VALUES(14,'00000000-0000-4000-8000-000064000001',2,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','ok',608.0,528.0,'[512.0,528.0,544.0]',2.0e-07,NULL,'{"log":["\u00b5s",null]}','6c2d93ae20ff136533e463a082a6ef77661aaeb69a27b8e3c8bdbf6e537ea43d');
INSERT INTO "trials" VALUES(15,'00000000-0000-4000-8000-000064000001',2,'69b0c43003d1924f1ef4876c1c11d301cc06c266531d999efe4d21afa20e1a84','{"B":128}','wrong',NULL,NULL,'[]',0.5,'0.5 > 1e-3','{}','ae2c6f0c8aa29a24fe57ed7c52a3efad8581abb99a7418ca1f47d4e16a6e33b7');
INSERT INTO "trials" VALUES(16,'00000000-0000-4000-8000-000064000001',2,'6a0ec437870b42be32efe376cb9ce8b85f5351de0e5baab910c66cd480ad37f6','{"B":256}','resources',NULL,NULL,'[]',NULL,'needs 160 KiB of shared memory','{}','97d16e56f84ce5857400a5c31ee84c9e97c89e637bd307addf7aadc095987373');
INSERT INTO "trials" VALUES(17,'00000000-0000-4000-8000-000000000777',3,'611fba461222a960ae024eefbdf35523078f787a91b5ce3435b658c8fa0ff543','{"B":16}','ok',3.0,NULL,'[]',NULL,NULL,'{}','b5836eef3fd2626431d17b54c039ee3e5b77ba40bb2d68c8157eb6145f9a8e35');
INSERT INTO "trials" VALUES(18,'00000000-0000-4000-8000-000000000777',3,'215cbe166962dd7ebc1ac10f68f2d3cbb4ff03ccd2b087f1bf34fbc343c683a5','{"B":512}','started',NULL,NULL,'[]',NULL,NULL,'{}','fd328524fcfa85c2bbc9e431276e8f5ec8dd7249b6f0f64bf6de61ef785ee3f5');
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
    detail TEXT NOT NULL,
    checksum TEXT NOT NULL,
    UNIQUE (problem_id, environment_id)
) STRICT;
INSERT INTO "winners" VALUES(1,1,1,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','measured',16.5,9.5,2.0e-07,2.72727272727272707086e-01,0,'{"log":["\u00b5s",null]}','b7ab479e9458a67823ad762d8375ef7aee102ae74d7ccefaa77a8e68f9a8d409');
INSERT INTO "winners" VALUES(2,2,1,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','measured',8.25,9.5,2.0e-07,2.72727272727272707086e-01,0,'{"log":["\u00b5s",null]}','4a15d2f5db135eb136a83b2a75f3e329e31ca2a0ef24b86ec4fa51f7fdcaaad3');
INSERT INTO "winners" VALUES(3,1,2,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','measured',1056.0,608.0,2.0e-07,2.72727272727272707086e-01,0,'{"log":["\u00b5s",null]}','503d5361be5bb91a587dd1d496d84575b75da752d1068e6b7a590b8de4f303ca');
INSERT INTO "winners" VALUES(4,2,2,'b5af86a0368e420b9b4fb662afe509561ea8f6d3c48fd4f3a47bc2038096ccdc','{"B":64}','measured',528.0,608.0,2.0e-07,2.72727272727272707086e-01,0,'{"log":["\u00b5s",null]}','6d5c88645925f2e6bb265e6663509af62e4f4301fae277eab76ca0ad00dfa627');
INSERT INTO "winners" VALUES(5,1,3,'611fba461222a960ae024eefbdf35523078f787a91b5ce3435b658c8fa0ff543','{"B":16}','predicted',NULL,3.0,NULL,NULL,0,'{}','608abdd608b5ec6e4ea427c9431a0f595431d3cc9ba98b9777984f7bd8ff2ebb');
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE INDEX trials_by_problem ON trials (problem_id, outcome);
CREATE TRIGGER finished_trials_are_immutable BEFORE UPDATE ON trials
WHEN old.outcome <> 'started'
BEGIN SELECT RAISE(ABORT, 'a finished trial is never changed'); END;
COMMIT;
