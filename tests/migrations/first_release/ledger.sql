BEGIN TRANSACTION;
CREATE TABLE accounts (
	id VARCHAR(64) NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_accounts PRIMARY KEY (id)
);
INSERT INTO "accounts" VALUES('default',1795959929603);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE checkpoints (
	id VARCHAR(26) NOT NULL, 
	finetune_id VARCHAR(26) NOT NULL, 
	step BIGINT NOT NULL, 
	weights_path TEXT, 
	weights_digest VARCHAR(64), 
	weights_num_bytes BIGINT, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	deleted_at_ms BIGINT, 
	CONSTRAINT pk_checkpoints PRIMARY KEY (id), 
	CONSTRAINT fk_checkpoints_finetune_id FOREIGN KEY(finetune_id) REFERENCES finetunes (id)
);
INSERT INTO "checkpoints" VALUES('01M8KRXH5S0ENRV3PTNTDTK111','01M8KRXG7WECV4XWR78TGX7T7T',2,'finetunes/01M8KRXG7WECV4XWR78TGX7T7T/00000002-0a9e9c7da073.weights.safetensors','78661882d4dc858dbadd140048b28c88d2faeb370cfb51760e0f5400020a6ccf',19040,1795959997625,1795959997625,NULL);
INSERT INTO "checkpoints" VALUES('01M8KRXHVQ2VD6MWJPYFBEG9TJ','01M8KRXG9QZQ5RPBYRY6DJ4BS8',1,'finetunes/01M8KRXG9QZQ5RPBYRY6DJ4BS8/00000001-19f1ffb52dbe.weights.safetensors','67de0082d5b697d87f523480a4d7e42e0f098b04b5ced631233fb18cf7f7dadc',19040,1795959998327,1795959998327,NULL);
CREATE TABLE finetunes (
	ordinal INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(26) NOT NULL, 
	account_id VARCHAR(64) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	rank INTEGER NOT NULL, 
	adapter_seed BIGINT NOT NULL, 
	base_model_name TEXT, 
	base_model_digest VARCHAR(64), 
	step BIGINT NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	deleted_at_ms BIGINT, 
	CONSTRAINT ck_finetunes_rank CHECK (rank IN (8, 16, 24, 32)), 
	CONSTRAINT ck_finetunes_step CHECK (step >= 0), 
	CONSTRAINT fk_finetunes_account_id FOREIGN KEY(account_id) REFERENCES accounts (id), 
	CONSTRAINT uq_finetunes_id UNIQUE (id)
);
INSERT INTO "finetunes" VALUES(1,'01M8KRXG7WECV4XWR78TGX7T7T','default','answers',8,584181672859559123,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',3,1795959996668,1795959997885,NULL);
INSERT INTO "finetunes" VALUES(2,'01M8KRXG9QZQ5RPBYRY6DJ4BS8','default','rewards',8,5413846125573897419,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',1,1795959996726,1795959998327,NULL);
CREATE TABLE meta (
	"key" VARCHAR(64) NOT NULL, 
	value TEXT NOT NULL, 
	CONSTRAINT pk_meta PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('epoch','1');
CREATE TABLE metrics (
	finetune_id VARCHAR(26) NOT NULL, 
	step BIGINT NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	value FLOAT NOT NULL, 
	logged_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_metrics PRIMARY KEY (finetune_id, step, name), 
	CONSTRAINT fk_metrics_finetune_id FOREIGN KEY(finetune_id) REFERENCES finetunes (id)
);
INSERT INTO "metrics" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',1,'sys/lr',0.05,1795959997174);
INSERT INTO "metrics" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',1,'sys/applied',1.0,1795959997174);
INSERT INTO "metrics" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',1,'sys/router_kl',0.0,1795959997174);
INSERT INTO "metrics" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',1,'sys/grad_norm',1.24463535955190551796e+00,1795959997174);
INSERT INTO "metrics" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',1,'sys/sft_loss',5.66564846038818359375e+00,1795959997174);
INSERT INTO "metrics" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',2,'sys/lr',0.05,1795959997495);
INSERT INTO "metrics" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',2,'sys/applied',1.0,1795959997495);
INSERT INTO "metrics" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',2,'sys/router_kl',1.89796835184097290039e-02,1795959997495);
INSERT INTO "metrics" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',2,'sys/grad_norm',1.42045261583849247166e+00,1795959997495);
INSERT INTO "metrics" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',2,'sys/sft_loss',4.26884007453918457031e+00,1795959997495);
INSERT INTO "metrics" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',3,'sys/lr',0.05,1795959997885);
INSERT INTO "metrics" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',3,'sys/applied',1.0,1795959997885);
INSERT INTO "metrics" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',3,'sys/router_kl',1.63087512056032807317e-01,1795959997885);
INSERT INTO "metrics" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',3,'sys/grad_norm',1.25725281514850428798e+00,1795959997885);
INSERT INTO "metrics" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',3,'sys/sft_loss',2.75655011336008692879e+00,1795959997885);
INSERT INTO "metrics" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',3,'eval/score',0.5,1795959997919);
INSERT INTO "metrics" VALUES('01M8KRXG9QZQ5RPBYRY6DJ4BS8',1,'sys/lr',0.05,1795959998311);
INSERT INTO "metrics" VALUES('01M8KRXG9QZQ5RPBYRY6DJ4BS8',1,'sys/applied',1.0,1795959998311);
INSERT INTO "metrics" VALUES('01M8KRXG9QZQ5RPBYRY6DJ4BS8',1,'sys/kl',0.0,1795959998311);
INSERT INTO "metrics" VALUES('01M8KRXG9QZQ5RPBYRY6DJ4BS8',1,'sys/router_kl',0.0,1795959998311);
INSERT INTO "metrics" VALUES('01M8KRXG9QZQ5RPBYRY6DJ4BS8',1,'sys/grad_norm',4.60832176480800825846e-01,1795959998311);
INSERT INTO "metrics" VALUES('01M8KRXG9QZQ5RPBYRY6DJ4BS8',1,'sys/reward_mean',0.5,1795959998311);
INSERT INTO "metrics" VALUES('01M8KRXG9QZQ5RPBYRY6DJ4BS8',1,'sys/reward_std',0.5,1795959998311);
CREATE TABLE train_steps (
	finetune_id VARCHAR(26) NOT NULL, 
	step BIGINT NOT NULL, 
	applied BOOLEAN NOT NULL, 
	response TEXT NOT NULL, 
	weights_path TEXT, 
	weights_digest VARCHAR(64), 
	weights_num_bytes BIGINT, 
	optimizer_path TEXT, 
	optimizer_digest VARCHAR(64), 
	optimizer_num_bytes BIGINT, 
	created_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_train_steps PRIMARY KEY (finetune_id, step), 
	CONSTRAINT fk_train_steps_finetune_id FOREIGN KEY(finetune_id) REFERENCES finetunes (id)
);
INSERT INTO "train_steps" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.0,"grad_norm":1.2446353595519055,"reward_mean":null,"reward_std":null,"sft_loss":5.665648460388184,"lr":0.05,"options":{"advantage_scale":"group","std_floor":0.0001,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":220,"num_tokens":3,"policy_lag":null,"clip_fraction":null,"logprob_gap_mean":null,"logprob_gap_max":null,"groups_skipped":0,"tokens_per_second":14.664256710121924,"images_per_second":4.888085570040642,"reward_by_skill":{},"warnings":[]}','finetunes/01M8KRXG7WECV4XWR78TGX7T7T/00000001-c115b3fce591.weights.safetensors','dd9f83c85d2c40b5de1381e388493a46a6e9b75496bd491131978742c4fb2fcf',19040,'finetunes/01M8KRXG7WECV4XWR78TGX7T7T/00000001-c115b3fce591.optimizer.safetensors','723e4cb6eb58546b79ad2fa4c7e0119100c3759cf0f5b349b799c070359e0ed2',38208,1795959997174);
INSERT INTO "train_steps" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',2,1,'{"step":2,"applied":true,"kl":null,"router_kl":0.01897968351840973,"grad_norm":1.4204526158384925,"reward_mean":null,"reward_std":null,"sft_loss":4.268840074539185,"lr":0.05,"options":{"advantage_scale":"group","std_floor":0.0001,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":140,"num_tokens":3,"policy_lag":null,"clip_fraction":null,"logprob_gap_mean":null,"logprob_gap_max":null,"groups_skipped":0,"tokens_per_second":21.91115587220054,"images_per_second":7.303718624066846,"reward_by_skill":{},"warnings":[]}','finetunes/01M8KRXG7WECV4XWR78TGX7T7T/00000002-0a9e9c7da073.weights.safetensors','78661882d4dc858dbadd140048b28c88d2faeb370cfb51760e0f5400020a6ccf',19040,'finetunes/01M8KRXG7WECV4XWR78TGX7T7T/00000002-0a9e9c7da073.optimizer.safetensors','718158c935466b51c7a8f8d449d9bd5a4525e86138dab39630d2eef89151b99f',38208,1795959997495);
INSERT INTO "train_steps" VALUES('01M8KRXG7WECV4XWR78TGX7T7T',3,1,'{"step":3,"applied":true,"kl":null,"router_kl":0.1630875120560328,"grad_norm":1.2572528151485043,"reward_mean":null,"reward_std":null,"sft_loss":2.756550113360087,"lr":0.05,"options":{"advantage_scale":"group","std_floor":0.0001,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":155,"num_tokens":3,"policy_lag":null,"clip_fraction":null,"logprob_gap_mean":null,"logprob_gap_max":null,"groups_skipped":0,"tokens_per_second":21.15307603273409,"images_per_second":7.051025344244697,"reward_by_skill":{},"warnings":[]}','finetunes/01M8KRXG7WECV4XWR78TGX7T7T/00000003-d284a8fd5eb1.weights.safetensors','5093e67299561f2b3357038a70b3a0baf4a44f28039722f7f120dcc82b8ac2f4',19040,'finetunes/01M8KRXG7WECV4XWR78TGX7T7T/00000003-d284a8fd5eb1.optimizer.safetensors','e2f3e9d2531bdae576e38a4f6dfb924048bc4301b85f74ae36e6b1fcd7c7645b',38208,1795959997885);
INSERT INTO "train_steps" VALUES('01M8KRXG9QZQ5RPBYRY6DJ4BS8',1,1,'{"step":1,"applied":true,"kl":0.0,"router_kl":0.0,"grad_norm":0.4608321764808008,"reward_mean":0.5,"reward_std":0.5,"sft_loss":null,"lr":0.05,"options":{"advantage_scale":"group","std_floor":0.0001,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":225,"num_tokens":13,"policy_lag":0,"clip_fraction":0.0,"logprob_gap_mean":2.0173879770132211e-07,"logprob_gap_max":9.5367431640625e-07,"groups_skipped":0,"tokens_per_second":59.2718766375965,"images_per_second":4.559375125968962,"reward_by_skill":{"point":0.5},"warnings":[]}','finetunes/01M8KRXG9QZQ5RPBYRY6DJ4BS8/00000001-19f1ffb52dbe.weights.safetensors','67de0082d5b697d87f523480a4d7e42e0f098b04b5ced631233fb18cf7f7dadc',19040,'finetunes/01M8KRXG9QZQ5RPBYRY6DJ4BS8/00000001-19f1ffb52dbe.optimizer.safetensors','39b9b59da3cd1d1c3f2cd4aec4eb0bddfa68790e3e8ab3d46f2c4c2b334a4b4c',38208,1795959998311);
CREATE UNIQUE INDEX uq_finetunes_living_name ON finetunes (account_id, name) WHERE deleted_at_ms IS NULL;
CREATE UNIQUE INDEX uq_checkpoints_living_step ON checkpoints (finetune_id, step) WHERE deleted_at_ms IS NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('finetunes',2);
COMMIT;
