BEGIN TRANSACTION;
CREATE TABLE accounts (
	id VARCHAR(64) NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_accounts PRIMARY KEY (id)
);
INSERT INTO "accounts" VALUES('default',1795930143430);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0002');
CREATE TABLE checkpoints (
	id VARCHAR(26) NOT NULL, 
	finetune_id VARCHAR(26) NOT NULL, 
	step BIGINT NOT NULL, 
	weights_path TEXT, 
	weights_digest VARCHAR(64), 
	weights_num_bytes BIGINT, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	deleted_at_ms BIGINT, exchange_path TEXT, exchange_digest VARCHAR(64), exchange_num_bytes BIGINT, exchange_manifest TEXT, 
	CONSTRAINT pk_checkpoints PRIMARY KEY (id), 
	CONSTRAINT fk_checkpoints_finetune_id FOREIGN KEY(finetune_id) REFERENCES finetunes (id)
);
INSERT INTO "checkpoints" VALUES('01M8JWEM1EVW8AC8ZZ21NSK3KK','01M8JWEKQ0BXDA8HJC2X3AFFQ4',2,'finetunes/01M8JWEKQ0BXDA8HJC2X3AFFQ4/00000002-90f19e0fa6fb.weights.safetensors','37a8616411d2bd1da62dbccdb6c1bfa03c0e765507d2c88e14ab547de861c3b1',19040,1795930148910,1795930148910,NULL,NULL,NULL,NULL,NULL);
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
	deleted_at_ms BIGINT, origin TEXT, origin_manifest TEXT, origin_weights_path TEXT, origin_weights_digest VARCHAR(64), origin_weights_num_bytes BIGINT, 
	CONSTRAINT ck_finetunes_rank CHECK (rank IN (8, 16, 24, 32)), 
	CONSTRAINT ck_finetunes_step CHECK (step >= 0), 
	CONSTRAINT fk_finetunes_account_id FOREIGN KEY(account_id) REFERENCES accounts (id), 
	CONSTRAINT uq_finetunes_id UNIQUE (id)
);
INSERT INTO "finetunes" VALUES(1,'01M8JWEKQ0BXDA8HJC2X3AFFQ4','default','trained',8,584181672859559123,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',3,1795930148578,1795930148974,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "finetunes" VALUES(2,'01M8JWEKQDC93DA6FV9HC9GTHX','default','gone',8,5413846125573897419,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',1,1795930148590,1795930148709,1795930148709,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "finetunes" VALUES(3,'01M8JWEKQTGTR6988ERGV48KQD','default','untrained',8,4933835455504191953,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',0,1795930148603,1795930148603,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "finetunes" VALUES(4,'01M8JWEM4AX0D31841VXGAESPC','default','begun',8,584181672859559123,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',1,1795930149012,1795930149077,NULL,'01M8JWEKQ0BXDA8HJC2X3AFFQ4@2',NULL,'finetunes/01M8JWEM4AX0D31841VXGAESPC/00000000-036464f161ea.weights.safetensors','37a8616411d2bd1da62dbccdb6c1bfa03c0e765507d2c88e14ab547de861c3b1',19040);
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
INSERT INTO "metrics" VALUES('01M8JWEKQDC93DA6FV9HC9GTHX',1,'sys/applied',1.0,1795930148689);
INSERT INTO "metrics" VALUES('01M8JWEKQDC93DA6FV9HC9GTHX',1,'sys/router_kl',0.0,1795930148689);
INSERT INTO "metrics" VALUES('01M8JWEKQDC93DA6FV9HC9GTHX',1,'sys/grad_norm',0.95719063557939,1795930148689);
INSERT INTO "metrics" VALUES('01M8JWEKQDC93DA6FV9HC9GTHX',1,'sys/sft_loss',5.8931522369384765625e+00,1795930148689);
INSERT INTO "metrics" VALUES('01M8JWEKQDC93DA6FV9HC9GTHX',1,'sys/lr',0.01,1795930148689);
INSERT INTO "metrics" VALUES('01M8JWEKQDC93DA6FV9HC9GTHX',1,'sys/duration_ms',70.0,1795930148689);
INSERT INTO "metrics" VALUES('01M8JWEKQDC93DA6FV9HC9GTHX',1,'sys/num_tokens',4.0,1795930148689);
INSERT INTO "metrics" VALUES('01M8JWEKQDC93DA6FV9HC9GTHX',1,'sys/rollouts_dropped',0.0,1795930148689);
INSERT INTO "metrics" VALUES('01M8JWEKQDC93DA6FV9HC9GTHX',1,'sys/groups_skipped',0.0,1795930148689);
INSERT INTO "metrics" VALUES('01M8JWEKQDC93DA6FV9HC9GTHX',1,'sys/positions_computed',14.0,1795930148689);
INSERT INTO "metrics" VALUES('01M8JWEKQDC93DA6FV9HC9GTHX',1,'sys/positions_saved',0.0,1795930148689);
INSERT INTO "metrics" VALUES('01M8JWEKQDC93DA6FV9HC9GTHX',1,'sys/tokens_per_second',6.90563656532005722956e+01,1795930148689);
INSERT INTO "metrics" VALUES('01M8JWEKQDC93DA6FV9HC9GTHX',1,'sys/images_per_second',0.0,1795930148689);
INSERT INTO "metrics" VALUES('01M8JWEKQDC93DA6FV9HC9GTHX',1,'sys/peak_memory_bytes',411738112.0,1795930148689);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',1,'sys/applied',1.0,1795930148801);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',1,'sys/router_kl',0.0,1795930148801);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',1,'sys/grad_norm',9.99556623171838354302e-01,1795930148801);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',1,'sys/sft_loss',5.8931522369384765625e+00,1795930148801);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',1,'sys/lr',0.01,1795930148801);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',1,'sys/duration_ms',73.0,1795930148801);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',1,'sys/num_tokens',4.0,1795930148801);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',1,'sys/rollouts_dropped',0.0,1795930148801);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',1,'sys/groups_skipped',0.0,1795930148801);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',1,'sys/positions_computed',14.0,1795930148801);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',1,'sys/positions_saved',0.0,1795930148801);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',1,'sys/tokens_per_second',5.72484371639629259238e+01,1795930148801);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',1,'sys/images_per_second',0.0,1795930148801);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',1,'sys/peak_memory_bytes',411738112.0,1795930148801);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',2,'sys/applied',1.0,1795930148889);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',2,'sys/router_kl',1.21798708278220146894e-03,1795930148889);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',2,'sys/grad_norm',1.01752626451985861422e+00,1795930148889);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',2,'sys/sft_loss',5.63139104843139648437e+00,1795930148889);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',2,'sys/lr',0.01,1795930148889);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',2,'sys/duration_ms',59.0,1795930148889);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',2,'sys/num_tokens',4.0,1795930148889);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',2,'sys/rollouts_dropped',0.0,1795930148889);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',2,'sys/groups_skipped',0.0,1795930148889);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',2,'sys/positions_computed',14.0,1795930148889);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',2,'sys/positions_saved',0.0,1795930148889);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',2,'sys/tokens_per_second',7.09131669336010759261e+01,1795930148889);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',2,'sys/images_per_second',0.0,1795930148889);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',2,'sys/peak_memory_bytes',411738112.0,1795930148889);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',3,'sys/applied',1.0,1795930148974);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',3,'sys/router_kl',6.17012032307684421539e-03,1795930148974);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',3,'sys/grad_norm',1.17613658772697604604e+00,1795930148974);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',3,'sys/sft_loss',5.29867887496948242187e+00,1795930148974);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',3,'sys/lr',0.01,1795930148974);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',3,'sys/duration_ms',54.0,1795930148974);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',3,'sys/num_tokens',4.0,1795930148974);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',3,'sys/rollouts_dropped',0.0,1795930148974);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',3,'sys/groups_skipped',0.0,1795930148974);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',3,'sys/positions_computed',14.0,1795930148974);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',3,'sys/positions_saved',0.0,1795930148974);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',3,'sys/tokens_per_second',7.79689235750957152512e+01,1795930148974);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',3,'sys/images_per_second',0.0,1795930148974);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',3,'sys/peak_memory_bytes',411738112.0,1795930148974);
INSERT INTO "metrics" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',3,'eval/score',0.5,1795930148991);
INSERT INTO "metrics" VALUES('01M8JWEM4AX0D31841VXGAESPC',1,'sys/applied',1.0,1795930149077);
INSERT INTO "metrics" VALUES('01M8JWEM4AX0D31841VXGAESPC',1,'sys/router_kl',6.17012032307684421539e-03,1795930149077);
INSERT INTO "metrics" VALUES('01M8JWEM4AX0D31841VXGAESPC',1,'sys/grad_norm',1.17613658772697604604e+00,1795930149077);
INSERT INTO "metrics" VALUES('01M8JWEM4AX0D31841VXGAESPC',1,'sys/sft_loss',5.29867887496948242187e+00,1795930149077);
INSERT INTO "metrics" VALUES('01M8JWEM4AX0D31841VXGAESPC',1,'sys/lr',0.01,1795930149077);
INSERT INTO "metrics" VALUES('01M8JWEM4AX0D31841VXGAESPC',1,'sys/duration_ms',52.0,1795930149077);
INSERT INTO "metrics" VALUES('01M8JWEM4AX0D31841VXGAESPC',1,'sys/num_tokens',4.0,1795930149077);
INSERT INTO "metrics" VALUES('01M8JWEM4AX0D31841VXGAESPC',1,'sys/rollouts_dropped',0.0,1795930149077);
INSERT INTO "metrics" VALUES('01M8JWEM4AX0D31841VXGAESPC',1,'sys/groups_skipped',0.0,1795930149077);
INSERT INTO "metrics" VALUES('01M8JWEM4AX0D31841VXGAESPC',1,'sys/positions_computed',14.0,1795930149077);
INSERT INTO "metrics" VALUES('01M8JWEM4AX0D31841VXGAESPC',1,'sys/positions_saved',0.0,1795930149077);
INSERT INTO "metrics" VALUES('01M8JWEM4AX0D31841VXGAESPC',1,'sys/tokens_per_second',8.09968935661665199142e+01,1795930149077);
INSERT INTO "metrics" VALUES('01M8JWEM4AX0D31841VXGAESPC',1,'sys/images_per_second',0.0,1795930149077);
INSERT INTO "metrics" VALUES('01M8JWEM4AX0D31841VXGAESPC',1,'sys/peak_memory_bytes',411738112.0,1795930149077);
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
INSERT INTO "train_steps" VALUES('01M8JWEKQDC93DA6FV9HC9GTHX',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.0,"grad_norm":0.95719063557939,"reward_mean":null,"reward_std":null,"sft_loss":5.893152236938477,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":70,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":69.05636565320057,"images_per_second":0.0,"peak_memory_bytes":411738112,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JWEKQDC93DA6FV9HC9GTHX/00000001-03982a2becd1.weights.safetensors','74e049273ddc7038439e2a7c9967bd835ec24816d4d7d150430304270c060620',19040,'finetunes/01M8JWEKQDC93DA6FV9HC9GTHX/00000001-03982a2becd1.optimizer.safetensors','3bff97f27310ec3402e35bffcf369027ceb3dfad11954a9086c94866fc5edc79',38208,1795930148689);
INSERT INTO "train_steps" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.0,"grad_norm":0.9995566231718384,"reward_mean":null,"reward_std":null,"sft_loss":5.893152236938477,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":73,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":57.248437163962926,"images_per_second":0.0,"peak_memory_bytes":411738112,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JWEKQ0BXDA8HJC2X3AFFQ4/00000001-5aaa26358027.weights.safetensors','538b2f094d5d504bf06d4d535f6e592dabafcd9d9321d46a93741464d2502a2a',19040,'finetunes/01M8JWEKQ0BXDA8HJC2X3AFFQ4/00000001-5aaa26358027.optimizer.safetensors','38828f617b10cee7057186e119a3860795a6ec66cfd06385619b36b84aab1040',38208,1795930148801);
INSERT INTO "train_steps" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',2,1,'{"step":2,"applied":true,"kl":null,"router_kl":0.0012179870827822015,"grad_norm":1.0175262645198586,"reward_mean":null,"reward_std":null,"sft_loss":5.6313910484313965,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":59,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":70.91316693360108,"images_per_second":0.0,"peak_memory_bytes":411738112,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JWEKQ0BXDA8HJC2X3AFFQ4/00000002-90f19e0fa6fb.weights.safetensors','37a8616411d2bd1da62dbccdb6c1bfa03c0e765507d2c88e14ab547de861c3b1',19040,'finetunes/01M8JWEKQ0BXDA8HJC2X3AFFQ4/00000002-90f19e0fa6fb.optimizer.safetensors','95e5fc9597db41375376fc05d1640f436c83c127802999fe5313216ff9f659f2',38208,1795930148889);
INSERT INTO "train_steps" VALUES('01M8JWEKQ0BXDA8HJC2X3AFFQ4',3,1,'{"step":3,"applied":true,"kl":null,"router_kl":0.006170120323076844,"grad_norm":1.176136587726976,"reward_mean":null,"reward_std":null,"sft_loss":5.298678874969482,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":54,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":77.96892357509572,"images_per_second":0.0,"peak_memory_bytes":411738112,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JWEKQ0BXDA8HJC2X3AFFQ4/00000003-4503283b6357.weights.safetensors','5b7a7bbe6a6717e836916b7de419b58492ac3cba114f6ef59650ec41aa80c482',19040,'finetunes/01M8JWEKQ0BXDA8HJC2X3AFFQ4/00000003-4503283b6357.optimizer.safetensors','acbb11a586060879c803242571812df0f4ff85fd261d33c17212ba78fbc496e5',38208,1795930148974);
INSERT INTO "train_steps" VALUES('01M8JWEM4AX0D31841VXGAESPC',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.006170120323076844,"grad_norm":1.176136587726976,"reward_mean":null,"reward_std":null,"sft_loss":5.298678874969482,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":52,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":80.99689356616652,"images_per_second":0.0,"peak_memory_bytes":411738112,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JWEM4AX0D31841VXGAESPC/00000001-97bdcf0388c1.weights.safetensors','2b39e9bd9e56bd4aee6cbf1d14d8088a5e339723ff861145051258c16bb06128',19040,'finetunes/01M8JWEM4AX0D31841VXGAESPC/00000001-97bdcf0388c1.optimizer.safetensors','ccfc2c784f25bc439af24601802a73311358d624edbdf1eb96b2b5adc96599a6',38208,1795930149077);
CREATE UNIQUE INDEX uq_finetunes_living_name ON finetunes (account_id, name) WHERE deleted_at_ms IS NULL;
CREATE UNIQUE INDEX uq_checkpoints_living_step ON checkpoints (finetune_id, step) WHERE deleted_at_ms IS NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('finetunes',4);
COMMIT;
